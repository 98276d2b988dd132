// Drift of rows: CPU loops and emulated kernels against double precision.
#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include "dlmcache/drift.h"
#include "tests/test_main.h"
#include "tests/values.h"

namespace {

using namespace dlmcache;
using dlmcache::testing::for_each_dtype;
using dlmcache::testing::Values;

struct Size {
  int64_t num_reference, width;
  int64_t padding;  // elements between two rows of signal
  int64_t offset;   // elements in front of signal: one makes its rows unaligned
};

// One call on the CPU and one on the emulated device, each with its own copy of the reference.
template <typename scalar_t>
struct Run {
  Run(Values<scalar_t> reference_, int64_t num_rows) : reference(reference_), drift(num_rows, -77.0f) {}
  Values<scalar_t> reference;
  std::vector<float> drift;
};

template <typename scalar_t>
void call_both(DType dtype, const Size& s, Values<scalar_t>& signal, const std::vector<int64_t>& index, bool update,
               Run<scalar_t>& on_cpu, Run<scalar_t>& on_cuda) {
  const int64_t num_rows = static_cast<int64_t>(index.size());
  CosineDriftParams p{
      dtype,        num_rows,           s.width, update, signal.data(), s.width + s.padding, on_cpu.reference.data(),
      index.data(), on_cpu.drift.data()};
  cpu::cosine_drift_rows(p, 0, num_rows / 2);
  cpu::cosine_drift_rows(p, num_rows / 2, num_rows);
  p.reference = on_cuda.reference.data();
  p.drift = on_cuda.drift.data();
  CHECK(cuda::launch_cosine_drift(p, nullptr) == nullptr);
}

void check_size(const Size& s, const std::vector<int64_t>& index, bool update = true) {
  for_each_dtype([&](auto zero, DType dtype, double) {
    using scalar_t = decltype(zero);
    const int64_t num_rows = static_cast<int64_t>(index.size()), stride = s.width + s.padding;
    Values<scalar_t> signal(num_rows * stride, 1.0f, 1, s.offset);
    const Values<scalar_t> before(s.num_reference * s.width, 1.0f, 2);
    // Equal, close and arbitrary rows in turn.
    for (int64_t r = 0; r < num_rows; ++r) {
      for (int64_t i = 0; i < s.width && index[r] >= 0 && r % 3 < 2; ++i) {
        scalar_t& x = signal.data()[r * stride + i];
        const float base = before[index[r] * s.width + i];
        x = from_float<scalar_t>(base + (r % 3 == 1 ? 0.02f * to_float(x) : 0.0f));
      }
    }
    Run<scalar_t> on_cpu(before, num_rows), on_cuda(before, num_rows);
    call_both(dtype, s, signal, index, update, on_cpu, on_cuda);

    Values<scalar_t> expected_reference = before;
    for (int64_t r = 0; r < num_rows; ++r) {
      double aa = 0.0, bb = 0.0, expected = 0.0;
      for (int64_t i = 0; i < s.width && index[r] >= 0; ++i) {
        aa += std::pow(signal[r * stride + i], 2);
        bb += std::pow(before[index[r] * s.width + i], 2);
      }
      for (int64_t i = 0; i < s.width && index[r] >= 0; ++i) {
        const double a = signal[r * stride + i], b = before[index[r] * s.width + i];
        expected += 0.5 * std::pow(a / std::sqrt(aa) - b / std::sqrt(bb), 2);
        if (update) expected_reference.data()[index[r] * s.width + i] = signal.data()[r * stride + i];
      }
      if (index[r] < 0 || r % 3 == 0) {
        CHECK_EQ(on_cpu.drift[r], 0.0f);
        CHECK_EQ(on_cuda.drift[r], 0.0f);
      } else {
        CHECK_NEAR(on_cpu.drift[r], expected, 1e-5 * expected + 1e-12);
        CHECK_NEAR(on_cuda.drift[r], expected, 1e-5 * expected + 1e-12);
      }
    }
    CHECK(on_cpu.reference.same_bits(expected_reference));
    CHECK(on_cuda.reference.same_bits(expected_reference));
  });
}

TEST(a_warp_per_row) { check_size({12, 64, 0, 0}, {0, 1, 3, 4, 6, 7, 9, 10, 11, -1}); }
TEST(a_block_per_row) {
  check_size({3, 1288, 0, 0}, {0, 2, 1});
  check_size({3, 1289, 0, 0}, {0, 2, 1});
}
TEST(more_than_a_block_keeps_in_registers) { check_size({2, 8208, 0, 0}, {0, 1}); }
TEST(one_element) { check_size({1, 1, 0, 0}, {0}); }
TEST(odd_width) { check_size({4, 77, 0, 0}, {3, 0, 2, -1}); }
TEST(unaligned_rows) {
  check_size({4, 64, 1, 0}, {3, 0, 2});
  check_size({4, 64, 0, 1}, {3, 0, 2});
}
TEST(padded_aligned_rows) { check_size({4, 64, 16, 0}, {3, 0, 2}); }
TEST(reference_stays_without_update) {
  check_size({4, 64, 0, 0}, {3, 0, 2, -1}, false);
  check_size({4, 33, 0, 0}, {3, 0, 2, -1}, false);
}
TEST(all_unused) { check_size({2, 16, 0, 0}, {-1, -1}); }
TEST(empty_list) { check_size({2, 16, 0, 0}, {}); }

TEST(zero_vectors_and_what_is_not_finite) {
  const float inf = std::numeric_limits<float>::infinity(), nan = std::numeric_limits<float>::quiet_NaN();
  struct Case {
    float a, b, expected;
  };
  const std::vector<Case> cases = {{0, 0, 0},     {0, 2, 1},     {2, 0, 1},     {2, 3, 0},       {2, -3, 2},
                                   {inf, 1, nan}, {1, inf, nan}, {nan, 1, nan}, {1e30f, 1, nan}, {1, 1e30f, nan}};
  for (const int64_t width : {1, 4, 600}) {
    const int64_t num_rows = static_cast<int64_t>(cases.size());
    Values<float> signal(num_rows * width), reference(num_rows * width);
    std::vector<int64_t> index;
    for (int64_t r = 0; r < num_rows; ++r) {
      index.push_back(r);
      for (int64_t i = 0; i < width; ++i) {
        signal.data()[r * width + i] = cases[r].a;
        reference.data()[r * width + i] = cases[r].b;
      }
    }
    Run<float> on_cpu(reference, num_rows), on_cuda(reference, num_rows);
    call_both(DType::kFloat32, {num_rows, width, 0, 0}, signal, index, true, on_cpu, on_cuda);
    for (int64_t r = 0; r < num_rows; ++r) {
      CHECK_NEAR(on_cpu.drift[r], cases[r].expected, 1e-6);
      CHECK_NEAR(on_cuda.drift[r], cases[r].expected, 1e-6);
    }
  }
}

}  // namespace
