// Tensor-core wrappers: matrix products through every way of loading the fragments, and a copy pipeline.
#include <cstdint>
#include <cstring>
#include <vector>

#include "cuda/tensor_core.cuh"
#include "cuda/vec.cuh"
#include "tests/test_main.h"

namespace {

using dlmcache::BFloat16;
using dlmcache::from_float;
using dlmcache::Half;
using dlmcache::to_float;
using dlmcache::cuda::Vec;

constexpr int kTile = 64;  // rows and columns of the result that a block computes
constexpr int kDepth = 16;

// 16-byte aligned storage.
template <typename scalar_t>
struct Matrix {
  Matrix(int rows, int columns) : num_columns(columns), vecs(rows * columns / Vec<scalar_t>::kSize) {}
  scalar_t* data() { return vecs.data()->element; }
  scalar_t& at(int row, int column) { return data()[row * num_columns + column]; }

  int num_columns;
  std::vector<Vec<scalar_t>> vecs;
};

template <typename scalar_t>
Matrix<scalar_t> make_matrix(int rows, int columns, int seed) {
  Matrix<scalar_t> matrix(rows, columns);
  for (int r = 0; r < rows; ++r) {
    for (int c = 0; c < columns; ++c) {
      matrix.at(r, c) = from_float<scalar_t>(static_cast<float>((r * 31 + c * 17 + seed) % 23 - 11) / 8.0f);
    }
  }
  return matrix;
}

template <typename scalar_t>
__device__ uint32_t pack(const scalar_t* low, const scalar_t* high) {
  uint16_t half[2];
  memcpy(&half[0], low, 2);
  memcpy(&half[1], high, 2);
  return static_cast<uint32_t>(half[1]) << 16 | half[0];
}

// out[16 x 8] = a[16 x 16] b[8 x 16]^T by one warp, fragments straight from memory.
template <typename scalar_t>
__global__ void one_product_kernel(const scalar_t* a, const scalar_t* b, float* out) {
  const int g = threadIdx.x / 4, t = threadIdx.x % 4 * 2;
  auto words = [&](const scalar_t* m, int row, int column) {
    return pack(m + row * 16 + column, m + row * 16 + column + 1);
  };
  const uint32_t fragment_a[4] = {words(a, g, t), words(a, g + 8, t), words(a, g, t + 8), words(a, g + 8, t + 8)};
  const uint32_t fragment_b[2] = {words(b, g, t), words(b, g, t + 8)};
  float d[4] = {1.0f, 1.0f, 1.0f, 1.0f};
  dlmcache::cuda::mma_m16n8k16<scalar_t>(d, fragment_a, fragment_b);
  out[g * 8 + t] = d[0];
  out[g * 8 + t + 1] = d[1];
  out[(g + 8) * 8 + t] = d[2];
  out[(g + 8) * 8 + t + 1] = d[3];
}

template <typename scalar_t>
void check_one_product() {
  Matrix<scalar_t> a = make_matrix<scalar_t>(16, 16, 1), b = make_matrix<scalar_t>(8, 16, 5);
  std::vector<float> out(16 * 8, NAN);
  DLMCACHE_LAUNCH(one_product_kernel<scalar_t>, 1, 32, 0, nullptr, a.data(), b.data(), out.data());
  for (int row = 0; row < 16; ++row) {
    for (int column = 0; column < 8; ++column) {
      float expected = 1.0f;  // exact: multiples of 1/64 below 2^10
      for (int k = 0; k < 16; ++k) expected += to_float(a.at(row, k)) * to_float(b.at(column, k));
      CHECK_EQ(out[row * 8 + column], expected);
    }
  }
}

TEST(mma_accumulates_a_product) {
  check_one_product<BFloat16>();
  check_one_product<Half>();
}

__global__ void ldmatrix_kernel(const uint16_t* in, uint32_t* plain, uint32_t* transposed) {
  __shared__ __align__(16) uint16_t tile[32 * 8];  // four matrices of 8 x 8, one after another
  for (int i = threadIdx.x; i < 32 * 8; i += 32) tile[i] = in[i];
  __syncwarp();
  uint32_t words[4];
  dlmcache::cuda::ldmatrix_x4(words, tile + threadIdx.x * 8);
  for (int i = 0; i < 4; ++i) plain[i * 32 + threadIdx.x] = words[i];
  dlmcache::cuda::ldmatrix_x4_transposed(words, tile + threadIdx.x * 8);
  for (int i = 0; i < 4; ++i) transposed[i * 32 + threadIdx.x] = words[i];
}

TEST(ldmatrix_and_its_transpose) {
  std::vector<uint16_t> in(256);
  for (int i = 0; i < 256; ++i) in[i] = static_cast<uint16_t>(i);  // matrix * 64 + row * 8 + column
  std::vector<uint32_t> plain(128), transposed(128);
  DLMCACHE_LAUNCH(ldmatrix_kernel, 1, 32, 0, nullptr, in.data(), plain.data(), transposed.data());
  for (uint32_t matrix = 0; matrix < 4; ++matrix) {
    for (uint32_t lane = 0; lane < 32; ++lane) {
      const uint32_t quad = lane / 4, pair = lane % 4 * 2, first = matrix * 64;
      CHECK_EQ(plain[matrix * 32 + lane], (first + quad * 8 + pair) | (first + quad * 8 + pair + 1) << 16);
      CHECK_EQ(transposed[matrix * 32 + lane], (first + pair * 8 + quad) | (first + (pair + 1) * 8 + quad) << 16);
    }
  }
}

// out = a b^T with 64 x 64 tiles, four warps, a two-stage copy pipeline and ldmatrix; rows of a past num_rows are
// zeros. A small version of what real kernels do, so that all wrappers are used together.
template <typename scalar_t>
__global__ void pipelined_gemm_kernel(const scalar_t* a, const scalar_t* b, float* out, int num_rows, int num_columns,
                                      int depth) {
  DLMCACHE_DYNAMIC_SHARED(scalar_t, tiles);
  constexpr int kStage = 2 * kTile * kDepth;
  const int thread = threadIdx.x, warp = thread / 32, lane = thread % 32;
  const int first_row = blockIdx.y * kTile, first_column = blockIdx.x * kTile;

  auto start_copy = [&](int stage, int k) {
    const int row = thread / 2, column = thread % 2 * 8;
    scalar_t* tile = tiles + stage * kStage + row * kDepth + column;
    const bool valid = first_row + row < num_rows;
    dlmcache::cuda::cp_async16(tile, a + static_cast<int64_t>(valid ? first_row + row : 0) * depth + k + column, valid);
    dlmcache::cuda::cp_async16(tile + kTile * kDepth,
                               b + static_cast<int64_t>(first_column + row) * depth + k + column);
    dlmcache::cuda::cp_async_commit();
  };

  float sum[8][4] = {};
  start_copy(0, 0);
  for (int k = 0, stage = 0; k < depth; k += kDepth, stage ^= 1) {
    if (k + kDepth < depth) {
      start_copy(stage ^ 1, k + kDepth);
      dlmcache::cuda::cp_async_wait<1>();
    } else {
      dlmcache::cuda::cp_async_wait<0>();
    }
    __syncthreads();
    const scalar_t* tile_a = tiles + stage * kStage;
    const scalar_t* tile_b = tile_a + kTile * kDepth;
    uint32_t fragment_a[4], fragment_b[4];
    dlmcache::cuda::ldmatrix_x4(fragment_a, tile_a + (warp * 16 + lane % 16) * kDepth + lane / 16 * 8);
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      dlmcache::cuda::ldmatrix_x4(fragment_b, tile_b + (j * 16 + lane % 8 + lane / 16 * 8) * kDepth + lane / 8 % 2 * 8);
      const uint32_t left[2] = {fragment_b[0], fragment_b[1]}, right[2] = {fragment_b[2], fragment_b[3]};
      dlmcache::cuda::mma_m16n8k16<scalar_t>(sum[2 * j], fragment_a, left);
      dlmcache::cuda::mma_m16n8k16<scalar_t>(sum[2 * j + 1], fragment_a, right);
    }
    __syncthreads();
  }
  for (int j = 0; j < 8; ++j) {
    for (int i = 0; i < 4; ++i) {
      const int row = first_row + warp * 16 + lane / 4 + i / 2 * 8,
                column = first_column + j * 8 + lane % 4 * 2 + i % 2;
      if (row < num_rows) out[static_cast<int64_t>(row) * num_columns + column] = sum[j][i];
    }
  }
}

template <typename scalar_t>
void check_gemm() {
  constexpr int kRows = 75, kColumns = 128, kInner = 80;
  Matrix<scalar_t> a = make_matrix<scalar_t>(kRows, kInner, 3), b = make_matrix<scalar_t>(kColumns, kInner, 8);
  std::vector<float> out(kRows * kColumns, NAN);
  DLMCACHE_LAUNCH(pipelined_gemm_kernel<scalar_t>, dim3(kColumns / kTile, (kRows + kTile - 1) / kTile), 128,
                  2 * 2 * kTile * kDepth * sizeof(scalar_t), nullptr, a.data(), b.data(), out.data(), kRows, kColumns,
                  kInner);
  for (int row = 0; row < kRows; ++row) {
    for (int column = 0; column < kColumns; ++column) {
      float expected = 0.0f;
      for (int k = 0; k < kInner; ++k) expected += to_float(a.at(row, k)) * to_float(b.at(column, k));
      CHECK_EQ(out[row * kColumns + column], expected);
    }
  }
}

TEST(gemm_with_ldmatrix_and_a_copy_pipeline) {
  check_gemm<BFloat16>();
  check_gemm<Half>();
}

__global__ void early_read_kernel(const float* in, float* out) {
  __shared__ __align__(16) float tile[8];
  for (int i = 0; i < 8; ++i) tile[i] = 5.0f;
  dlmcache::cuda::cp_async16(tile, in);
  dlmcache::cuda::cp_async_commit();
  dlmcache::cuda::cp_async16(tile + 4, in, false);
  dlmcache::cuda::cp_async_commit();
  out[0] = tile[0];
  dlmcache::cuda::cp_async_wait<1>();
  out[1] = tile[3];
  out[2] = tile[4];
  dlmcache::cuda::cp_async_wait<0>();
  out[3] = tile[7];
}

TEST(a_copy_is_visible_only_after_its_wait) {
  alignas(16) const float in[4] = {1.0f, 2.0f, 3.0f, 4.0f};
  float out[4] = {};
  DLMCACHE_LAUNCH(early_read_kernel, 1, 1, 0, nullptr, in, out);
  CHECK_NEAR(out[0], NAN, 0);  // under way
  CHECK_EQ(out[1], 4.0f);      // the older group has arrived
  CHECK_NEAR(out[2], NAN, 0);  // the younger one has not
  CHECK_EQ(out[3], 0.0f);      // not valid: zeros
}

}  // namespace
