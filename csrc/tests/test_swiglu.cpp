// silu(gate) * up: CPU loops and emulated kernels against double precision.
#include <cmath>
#include <cstdint>

#include "dlmcache/swiglu.h"
#include "tests/test_main.h"
#include "tests/values.h"

namespace {

using namespace dlmcache;
using dlmcache::testing::for_each_dtype;
using dlmcache::testing::Values;

// Elements between two rows, and in front of the first: with an odd number rows are not aligned.
void check_size(int64_t num_rows, int64_t width, int64_t padding, int64_t offset, float scale = 3.0f) {
  for_each_dtype([&](auto zero, DType dtype, double epsilon) {
    using scalar_t = decltype(zero);
    const int64_t stride = 2 * width + padding;
    Values<scalar_t> gate_up(num_rows * stride, scale, 1, offset);
    Values<scalar_t> on_cpu(num_rows * width), on_cuda(num_rows * width);
    SwigluParams p{dtype, num_rows, width, gate_up.data(), stride, on_cpu.data()};
    cpu::swiglu_rows(p, 0, num_rows / 2);
    cpu::swiglu_rows(p, num_rows / 2, num_rows);
    p.out = on_cuda.data();
    CHECK(cuda::launch_swiglu(p, nullptr) == nullptr);
    for (int64_t r = 0; r < num_rows; ++r) {
      for (int64_t i = 0; i < width; ++i) {
        const double gate = gate_up[r * stride + i], up = gate_up[r * stride + width + i];
        const double silu = gate / (1.0 + std::exp(-gate)), expected = silu * up;
        // Two roundings to the storage type and a few in fp32; times up, the spacing of half's subnormals or what is
        // lost where exp(-gate) overflows.
        const double smallest = dtype == DType::kFloat16 ? 0x1p-24 : 3e-37;
        const double tolerance = (2.1 * epsilon + 8 * 0x1p-24) * std::fabs(expected) + smallest * (1.0 + std::fabs(up));
        CHECK_NEAR(on_cpu[r * width + i], expected, tolerance);
        CHECK_NEAR(on_cuda[r * width + i], expected, tolerance);
      }
    }
  });
}

TEST(vectors) { check_size(3, 256, 0, 0); }
TEST(one_element) { check_size(1, 1, 0, 0); }
TEST(odd_width) { check_size(3, 129, 0, 0); }
TEST(unaligned_rows) {
  check_size(3, 64, 1, 0);
  check_size(2, 64, 0, 1);
}
TEST(padded_aligned_rows) { check_size(2, 64, 16, 0); }
TEST(rows_spread_over_blocks) { check_size(2, 5000, 0, 0); }
TEST(large_gates) { check_size(2, 300, 0, 0, 60.0f); }
TEST(nothing_to_do) {
  check_size(0, 8, 0, 0);
  check_size(3, 0, 0, 0);
}

}  // namespace
