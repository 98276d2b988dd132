// RMSNorm of selected rows, and of sums: CPU loops and emulated kernels against double precision.
#include <cmath>
#include <cstdint>
#include <vector>

#include "dlmcache/norm.h"
#include "tests/test_main.h"
#include "tests/values.h"

namespace {

using namespace dlmcache;
using dlmcache::testing::for_each_dtype;
using dlmcache::testing::Values;

struct Size {
  int64_t num_source, width;
  int64_t padding;  // elements between two rows of x
  int64_t offset;   // elements in front of x: one makes its rows unaligned
};

void check_size(const Size& s, const std::vector<int64_t>* index) {
  for_each_dtype([&](auto zero, DType dtype, double epsilon) {
    using scalar_t = decltype(zero);
    const int64_t num_rows = index ? static_cast<int64_t>(index->size()) : s.num_source;
    const int64_t stride = s.width + s.padding;
    constexpr float kEps = 1e-5f;
    Values<scalar_t> x(s.num_source * stride, 2.0f, 1, s.offset), weight(s.width, 1.0f, 2);
    Values<scalar_t> on_cpu(num_rows * s.width), on_cuda(num_rows * s.width);
    RmsNormParams p{dtype,        num_rows, s.width,       kEps,
                    x.data(),     stride,   weight.data(), index ? index->data() : nullptr,
                    on_cpu.data()};
    cpu::rms_norm_rows(p, 0, num_rows / 2);
    cpu::rms_norm_rows(p, num_rows / 2, num_rows);
    p.out = on_cuda.data();
    CHECK(cuda::launch_rms_norm(p, nullptr) == nullptr);
    for (int64_t r = 0; r < num_rows; ++r) {
      const int64_t source = index ? (*index)[r] : r;
      double squares = 0.0;
      for (int64_t i = 0; i < s.width && source >= 0; ++i) squares += std::pow(x[source * stride + i], 2);
      const double scale = 1.0 / std::sqrt(squares / s.width + kEps);
      for (int64_t i = 0; i < s.width; ++i) {
        const double expected = source < 0 ? 0.0 : x[source * stride + i] * scale * weight[i];
        // Two roundings to the storage type and a few in fp32; the spacing of half's subnormals, times the weight.
        const double smallest = dtype == DType::kFloat16 && source >= 0 ? 0x1p-24 : 0.0;
        const double tolerance =
            (2.1 * epsilon + 8 * 0x1p-24) * std::fabs(expected) + smallest * (1.0 + std::fabs(weight[i]));
        CHECK_NEAR(on_cpu[r * s.width + i], expected, tolerance);
        CHECK_NEAR(on_cuda[r * s.width + i], expected, tolerance);
      }
    }
  });
}

// The sum to the bit, and the norm to the bit what the norm of that sum is on the same side.
void check_sum(const Size& s) {
  for_each_dtype([&](auto zero, DType dtype, double) {
    using scalar_t = decltype(zero);
    const int64_t stride = s.width + s.padding;
    Values<scalar_t> x(s.num_source * stride, 2.0f, 3, s.offset), y(s.num_source * stride, 2.0f, 4, s.offset),
        weight(s.width, 1.0f, 5);
    Values<scalar_t> sum(s.num_source * s.width), normed(s.num_source * s.width), expected(s.num_source * s.width);
    for (const bool on_cuda : {false, true}) {
      const AddRmsNormParams p{dtype,    s.num_source, s.width,       1e-5f,      x.data(),     stride,
                               y.data(), stride,       weight.data(), sum.data(), normed.data()};
      if (on_cuda) {
        CHECK(cuda::launch_add_rms_norm(p, nullptr) == nullptr);
      } else {
        cpu::add_rms_norm_rows(p, 0, s.num_source / 2);
        cpu::add_rms_norm_rows(p, s.num_source / 2, s.num_source);
      }
      const RmsNormParams norm{dtype,   s.num_source,  s.width, 1e-5f,          sum.data(),
                               s.width, weight.data(), nullptr, expected.data()};
      if (on_cuda) {
        CHECK(cuda::launch_rms_norm(norm, nullptr) == nullptr);
      } else {
        cpu::rms_norm_rows(norm, 0, s.num_source);
      }
      for (int64_t r = 0; r < s.num_source; ++r) {
        for (int64_t i = 0; i < s.width; ++i) {
          const float added = static_cast<float>(x[r * stride + i]) + static_cast<float>(y[r * stride + i]);
          CHECK_NEAR(sum[r * s.width + i], to_float(from_float<scalar_t>(added)), 0.0);
          CHECK_NEAR(normed[r * s.width + i], expected[r * s.width + i], 0.0);
        }
      }
    }
  });
}

TEST(sums) {
  check_sum({3, 256, 0, 0});
  check_sum({2, 129, 0, 0});
  check_sum({2, 769, 5, 0});
  check_sum({2, 64, 1, 1});
}
TEST(all_rows_in_vectors) { check_size({3, 256, 0, 0}, nullptr); }
TEST(one_element) { check_size({1, 1, 0, 0}, nullptr); }
TEST(odd_width) { check_size({3, 129, 0, 0}, nullptr); }
TEST(wider_than_a_block) {
  check_size({2, 769, 0, 0}, nullptr);
  check_size({2, 4096, 0, 0}, nullptr);
}
TEST(unaligned_rows) {
  check_size({3, 64, 1, 0}, nullptr);
  check_size({2, 64, 0, 1}, nullptr);
}
TEST(padded_aligned_rows) { check_size({2, 64, 16, 0}, nullptr); }
TEST(gathered_rows_and_unused_entries) {
  const std::vector<int64_t> index = {4, 0, 2, 2, -1, -1};
  check_size({5, 130, 0, 0}, &index);
  check_size({5, 64, 8, 0}, &index);
}
TEST(empty_list) {
  const std::vector<int64_t> index;
  check_size({5, 64, 0, 0}, &index);
}

}  // namespace
