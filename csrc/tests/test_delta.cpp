// Carrying rows over a layer: CPU loops and emulated kernels against plain loops, the norm against that of rms_norm.
#include <cmath>
#include <cstdint>
#include <vector>

#include "dlmcache/delta.h"
#include "dlmcache/norm.h"
#include "tests/test_main.h"
#include "tests/values.h"

namespace {

using namespace dlmcache;
using dlmcache::testing::for_each_dtype;
using dlmcache::testing::Values;

struct Size {
  int64_t num_kept, width;
  int64_t padding;  // elements between two rows of h, attn_out and ff_out
  int64_t offset;   // elements in front of them: one makes their rows unaligned
};

template <typename scalar_t>
float add(float a, float b) {
  return to_float(from_float<scalar_t>(a + b));
}

void check_size(const Size& s, const std::vector<int64_t>& index, const std::vector<int64_t>& places, bool absolute,
                bool with_norm = true) {
  for_each_dtype([&](auto zero, DType dtype, double) {
    using scalar_t = decltype(zero);
    const int64_t num_rows = static_cast<int64_t>(index.size()), num_computed = static_cast<int64_t>(places.size());
    const int64_t stride = s.width + s.padding;
    Values<scalar_t> h(num_rows * stride, 1.0f, 1, s.offset), attn(num_computed * stride, 1.0f, 2, s.offset),
        ff(num_computed * stride, 1.0f, 3, s.offset), weight(s.width, 1.0f, 4);
    const Values<scalar_t> before(s.num_kept * s.width, 1.0f, 5);

    // What is expected, rounded like the operator: the results must be equal to the bit.
    Values<scalar_t> delta = before, h_next(num_rows * s.width, 0.0f), normed(num_rows * s.width, 0.0f);
    for (int64_t i = 0; i < num_computed; ++i) {
      const int64_t row = places[i];
      if (row < 0 || index[row] < 0) continue;
      for (int64_t c = 0; c < s.width; ++c) {
        const float a = attn[i * stride + c], f = ff[i * stride + c];
        const float base = absolute ? add<scalar_t>(h[row * stride + c], a) : a;
        delta.data()[index[row] * s.width + c] = from_float<scalar_t>(base + f);
      }
    }
    for (int64_t r = 0; r < num_rows; ++r) {
      for (int64_t c = 0; c < s.width; ++c) {
        if (index[r] < 0) {
          h_next.data()[r * s.width + c] = from_float<scalar_t>(0.0f);
          continue;
        }
        const float kept = delta[index[r] * s.width + c];
        h_next.data()[r * s.width + c] = from_float<scalar_t>(absolute ? kept : h[r * stride + c] + kept);
      }
    }

    struct Output {
      Values<scalar_t> delta, h_next, normed;
    };
    const auto make_output = [&] {
      return Output{before, Values<scalar_t>(num_rows * s.width, 1.0f, 6),
                    Values<scalar_t>(num_rows * s.width, 1.0f, 7)};
    };
    Output on_cpu = make_output(), on_cuda = make_output();
    const auto params = [&](Output& out) {
      DeltaUpdateParams p{};
      p.dtype = dtype;
      p.num_rows = num_rows;
      p.num_computed = num_computed;
      p.width = s.width;
      p.absolute = absolute;
      p.eps = 1e-5f;
      p.delta = out.delta.data();
      p.h = h.data();
      p.h_stride = p.attn_stride = p.ff_stride = stride;
      p.row_index = index.data();
      p.attn_out = attn.data();
      p.ff_out = ff.data();
      p.places = places.data();
      p.norm_weight = with_norm ? weight.data() : nullptr;
      p.h_next = out.h_next.data();
      p.normed = out.normed.data();
      return p;
    };
    cpu::delta_update_rows(params(on_cpu), 0, num_rows / 2);
    cpu::delta_update_rows(params(on_cpu), num_rows / 2, num_rows);
    CHECK(cuda::launch_delta_update(params(on_cuda), nullptr) == nullptr);
    CHECK(on_cpu.delta.same_bits(delta));
    CHECK(on_cuda.delta.same_bits(delta));
    CHECK(on_cpu.h_next.same_bits(h_next));
    CHECK(on_cuda.h_next.same_bits(h_next));
    if (!with_norm) {
      const Output untouched = make_output();
      CHECK(on_cpu.normed.same_bits(untouched.normed));
      CHECK(on_cuda.normed.same_bits(untouched.normed));
      return;
    }
    // The norm is that of the operator of this name, each device by its own.
    std::vector<int64_t> own_rows(num_rows);
    for (int64_t r = 0; r < num_rows; ++r) own_rows[r] = index[r] < 0 ? -1 : r;
    RmsNormParams n{dtype,   num_rows,      s.width,         1e-5f,        h_next.data(),
                    s.width, weight.data(), own_rows.data(), normed.data()};
    cpu::rms_norm_rows(n, 0, num_rows);
    CHECK(on_cpu.normed.same_bits(normed));
    CHECK(cuda::launch_rms_norm(n, nullptr) == nullptr);
    for (int64_t i = 0; i < num_rows * s.width; ++i) {
      // Rows of which some tensor is not aligned are summed in another order.
      CHECK_NEAR(on_cuda.normed[i], normed[i], 1e-6 + (dtype == DType::kFloat32 ? 1e-5 : 1e-2) * std::fabs(normed[i]));
    }
    if (s.padding == 0 && s.offset == 0) CHECK(on_cuda.normed.same_bits(normed));
  });
}

void check_both(const Size& s, const std::vector<int64_t>& index, const std::vector<int64_t>& places) {
  check_size(s, index, places, false);
  check_size(s, index, places, true);
}

const std::vector<int64_t> kIndex = {0, 2, 3, 7, 9, 10, -1, -1}, kPlaces = {1, 2, 5, -1};

TEST(some_rows_computed) { check_both({11, 64, 0, 0}, kIndex, kPlaces); }
TEST(one_element) { check_both({1, 1, 0, 0}, {0}, {0}); }
TEST(odd_width) { check_both({11, 77, 0, 0}, kIndex, kPlaces); }
TEST(wider_than_a_block) {
  check_both({3, 2304, 0, 0}, {0, 2}, {1});
  check_both({3, 769, 0, 0}, {0, 2}, {0});
}
TEST(unaligned_rows) {
  check_both({11, 64, 1, 0}, kIndex, kPlaces);
  check_both({11, 64, 0, 1}, kIndex, kPlaces);
}
TEST(padded_aligned_rows) { check_both({11, 64, 16, 0}, kIndex, kPlaces); }
TEST(without_norm) {
  check_size({11, 64, 0, 0}, kIndex, kPlaces, false, false);
  check_size({11, 33, 0, 0}, kIndex, kPlaces, true, false);
}
TEST(all_rows_computed) { check_both({4, 40, 0, 0}, {0, 1, 2, 3}, {0, 1, 2, 3}); }
TEST(no_rows_computed) {
  check_both({11, 40, 0, 0}, kIndex, {});
  check_both({11, 40, 0, 0}, kIndex, {-1, -1});
}
TEST(a_computed_row_that_is_unused) { check_both({4, 40, 0, 0}, {1, 3, -1}, {1, 2}); }
TEST(all_unused) { check_both({4, 40, 0, 0}, {-1, -1}, {-1}); }
TEST(empty_list) { check_both({4, 40, 0, 0}, {}, {}); }

}  // namespace
