// RMSNorm of gathered rows.
#pragma once

#include "cuda/normalise_row.cuh"
#include "cuda/portable.cuh"
#include "cuda/vec.cuh"
#include "dlmcache/norm.h"

namespace dlmcache::cuda {

// Grid: (num_rows). Block: kThreads. One block normalises one row; it reads the row twice, the second time from L1/L2.
template <typename scalar_t, int kThreads, bool kVectorised>
__global__ void __launch_bounds__(kThreads) rms_norm_kernel(RmsNormParams p) {
  __shared__ float scratch[kThreads / 32];
  const int64_t row = blockIdx.x;
  const int64_t source = p.row_index ? p.row_index[row] : row;
  scalar_t* out = static_cast<scalar_t*>(p.out) + row * p.width;
  if (source < 0) {  // the whole block leaves: no barrier is skipped by some of its threads only
    for (int64_t i = threadIdx.x; i < p.width; i += kThreads) out[i] = from_float<scalar_t>(0.0f);
    return;
  }
  const scalar_t* x = static_cast<const scalar_t*>(p.x) + source * p.x_stride;
  const scalar_t* weight = static_cast<const scalar_t*>(p.weight);
  constexpr int kStep = kVectorised ? Vec<scalar_t>::kSize : 1;

  float squares = 0.0f;
  for (int64_t i = threadIdx.x * kStep; i < p.width; i += kThreads * kStep) {
    float value[kStep];
    load_floats<kStep>(x + i, value);
#pragma unroll
    for (int k = 0; k < kStep; ++k) squares += value[k] * value[k];
  }
  normalise_row<scalar_t, kThreads, kVectorised>(x, squares, weight, p.width, p.eps, out, scratch);
}

}  // namespace dlmcache::cuda
