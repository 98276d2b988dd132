// RoPE into the cache: CPU loops and emulated kernels against double precision.
#include <cmath>
#include <cstdint>
#include <vector>

#include "dlmcache/rope_cache.h"
#include "tests/test_main.h"
#include "tests/values.h"

namespace {

using namespace dlmcache;
using dlmcache::testing::for_each_dtype;
using dlmcache::testing::Values;

struct Shape {
  int64_t num_heads, num_kv_heads, head_dim, capacity, slots;
  int64_t padding;  // elements between two rows of qkv
  int64_t offset;   // elements in front of qkv: one makes its rows unaligned
};

template <typename scalar_t>
void check_shape(const Shape& s, const std::vector<int64_t>& index, DType dtype, double epsilon) {
  const int64_t num_rows = index.size(), half = s.head_dim / 2;
  const int64_t num_turning = s.num_heads + s.num_kv_heads;
  const int64_t stride = (num_turning + s.num_kv_heads) * s.head_dim + s.padding;
  const int64_t kv_width = s.num_kv_heads * s.head_dim, num_cached = s.slots * s.capacity;
  Values<scalar_t> qkv(num_rows * stride, 1.0f, 1, s.offset);
  std::vector<float> cos_sin(s.capacity * s.head_dim);
  for (int64_t position = 0; position < s.capacity; ++position) {
    for (int64_t i = 0; i < half; ++i) {
      const double angle = position * std::pow(10000.0, -2.0 * i / s.head_dim);
      cos_sin[position * s.head_dim + i] = static_cast<float>(std::cos(angle));
      cos_sin[position * s.head_dim + half + i] = static_cast<float>(std::sin(angle));
    }
  }

  struct Result {
    Values<scalar_t> q, k, v;
  };
  auto make_result = [&] {
    return Result{Values<scalar_t>(num_rows * s.num_heads * s.head_dim, 1.0f, 2),
                  Values<scalar_t>(num_cached * kv_width, 1.0f, 3), Values<scalar_t>(num_cached * kv_width, 1.0f, 4)};
  };
  const Result before = make_result();
  Result on_cpu = make_result(), on_cuda = make_result();
  auto params = [&](Result& result) {
    return RopeScatterKvParams{dtype,           num_rows,        s.num_heads,    s.num_kv_heads, s.head_dim,
                               s.capacity,      qkv.data(),      stride,         cos_sin.data(), index.data(),
                               result.k.data(), result.v.data(), result.q.data()};
  };
  cpu::rope_scatter_kv_rows(params(on_cpu), 0, num_rows / 2);
  cpu::rope_scatter_kv_rows(params(on_cpu), num_rows / 2, num_rows);
  CHECK(cuda::launch_rope_scatter_kv(params(on_cuda), nullptr) == nullptr);

  Values<scalar_t> expected_v = before.v;
  std::vector<bool> is_written(num_cached, false);
  for (int64_t r = 0; r < num_rows; ++r) {
    for (int64_t h = 0; h < num_turning; ++h) {
      const bool is_query = h < s.num_heads;
      if (index[r] < 0 && !is_query) continue;
      for (int64_t i = 0; i < s.head_dim; ++i) {
        double expected = 0.0, magnitude = 0.0;
        if (index[r] >= 0) {
          const int64_t place = r * stride + h * s.head_dim, angle = index[r] % s.capacity * s.head_dim + i % half;
          const double low = qkv[place + i % half], high = qkv[place + half + i % half];
          const double c = cos_sin[angle], sine = cos_sin[angle + half];
          expected = i < half ? low * c - high * sine : high * c + low * sine;
          magnitude = std::fabs(low) + std::fabs(high);
        }
        const double tolerance = epsilon * std::fabs(expected) + 0x1p-22 * magnitude + (magnitude > 0 ? 0x1p-25 : 0);
        if (is_query) {
          const int64_t out = (r * s.num_heads + h) * s.head_dim + i;
          CHECK_NEAR(on_cpu.q[out], expected, tolerance);
          CHECK_NEAR(on_cuda.q[out], expected, tolerance);
        } else {
          const int64_t out = index[r] * kv_width + (h - s.num_heads) * s.head_dim + i;
          CHECK_NEAR(on_cpu.k[out], expected, tolerance);
          CHECK_NEAR(on_cuda.k[out], expected, tolerance);
        }
      }
    }
    if (index[r] < 0) continue;
    is_written[index[r]] = true;
    for (int64_t i = 0; i < kv_width; ++i) {
      expected_v.data()[index[r] * kv_width + i] = qkv.data()[r * stride + num_turning * s.head_dim + i];
    }
  }
  CHECK(on_cpu.v.same_bits(expected_v));
  CHECK(on_cuda.v.same_bits(expected_v));
  for (int64_t row = 0; row < num_cached; ++row) {
    if (is_written[row]) continue;
    for (int64_t i = 0; i < kv_width; ++i) {
      CHECK_EQ(on_cpu.k[row * kv_width + i], before.k[row * kv_width + i]);
      CHECK_EQ(on_cuda.k[row * kv_width + i], before.k[row * kv_width + i]);
    }
  }
}

void check_all_dtypes(const Shape& shape, const std::vector<int64_t>& index) {
  for_each_dtype(
      [&](auto zero, DType dtype, double epsilon) { check_shape<decltype(zero)>(shape, index, dtype, epsilon); });
}

TEST(grouped_heads_in_vectors) { check_all_dtypes({4, 2, 32, 7, 3, 0, 0}, {0, 6, 7, 13, 20, -1, -1}); }
TEST(odd_half_of_a_head) { check_all_dtypes({3, 3, 6, 5, 2, 0, 0}, {1, 4, 9, -1}); }
TEST(unaligned_rows) {
  check_all_dtypes({2, 1, 32, 5, 1, 3, 0}, {0, 4});
  check_all_dtypes({2, 1, 32, 5, 1, 0, 1}, {0, 4});
}
TEST(padded_aligned_rows) { check_all_dtypes({2, 1, 16, 5, 1, 8, 0}, {2, 3}); }
TEST(keys_without_queries) { check_all_dtypes({0, 2, 16, 4, 2, 0, 0}, {3, 4, -1}); }
TEST(queries_without_keys) {
  check_all_dtypes({2, 0, 16, 4, 1, 0, 0}, {3, -1});
  check_all_dtypes({3, 0, 6, 5, 2, 0, 0}, {1, 4, 9, -1});
  check_all_dtypes({4, 0, 32, 5, 3, 3, 0}, {0, 4, 14});
  check_all_dtypes({32, 0, 64, 3, 1, 0, 0}, {1, 2, -1});
  check_all_dtypes({0, 0, 16, 4, 1, 0, 0}, {3, -1});
}
TEST(smallest) { check_all_dtypes({1, 1, 2, 1, 1, 0, 0}, {0}); }
TEST(rows_spread_over_blocks) { check_all_dtypes({32, 32, 64, 3, 1, 0, 0}, {1, 2, -1}); }
TEST(all_unused) { check_all_dtypes({2, 1, 16, 4, 1, 0, 0}, {-1, -1}); }
TEST(empty_list) { check_all_dtypes({2, 1, 16, 4, 1, 0, 0}, {}); }

}  // namespace
