// RMSNorm of gathered rows, and of sums.
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

// Grid: (num_rows). Block: kThreads. One block adds and normalises one row. Each element belongs to one thread
// throughout, so that only the sum of squares needs a barrier.
template <typename scalar_t, int kThreads, bool kVectorised>
__global__ void __launch_bounds__(kThreads) add_rms_norm_kernel(AddRmsNormParams p) {
  __shared__ float scratch[kThreads / 32];
  const int64_t row = blockIdx.x;
  const scalar_t* x = static_cast<const scalar_t*>(p.x) + row * p.x_stride;
  const scalar_t* y = static_cast<const scalar_t*>(p.y) + row * p.y_stride;
  scalar_t* sum = static_cast<scalar_t*>(p.sum) + row * p.width;
  constexpr int kStep = kVectorised ? Vec<scalar_t>::kSize : 1;

  float squares = 0.0f;
  for (int64_t i = threadIdx.x * kStep; i < p.width; i += kThreads * kStep) {
    float value[kStep], addend[kStep];
    load_floats<kStep>(x + i, value);
    load_floats<kStep>(y + i, addend);
#pragma unroll
    for (int k = 0; k < kStep; ++k) {
      // Rounded as torch's addition rounds: the norm is that of what is stored.
      value[k] = to_float(from_float<scalar_t>(value[k] + addend[k]));
      squares += value[k] * value[k];
    }
    store_floats<kStep>(sum + i, value);
  }
  normalise_row<scalar_t, kThreads, kVectorised>(sum, squares, static_cast<const scalar_t*>(p.weight), p.width, p.eps,
                                                 static_cast<scalar_t*>(p.normed) + row * p.width, scratch);
}

}  // namespace dlmcache::cuda
