// How far rows have moved from their references, which they replace in the same pass.
#pragma once

#include "cuda/portable.cuh"
#include "cuda/reduce.cuh"
#include "cuda/vec.cuh"
#include "dlmcache/drift.h"

namespace dlmcache::cuda {

// The elements of a vector as floats.
template <typename scalar_t>
struct VecFloats {
  float value[Vec<scalar_t>::kSize];

  __device__ __forceinline__ explicit VecFloats(const Vec<scalar_t>& vec) {
#pragma unroll
    for (int i = 0; i < Vec<scalar_t>::kSize; ++i) value[i] = to_float(vec.element[i]);
  }
};

// Vectors of either row that a thread keeps in registers between the two passes.
inline constexpr int kDriftKept = 4;

// Grid: (num_rows / rows per block). Block: kThreads. kRowThreads threads measure one row: a warp (short rows, kThreads
// / 32 of them per block) or the whole block. Aligned rows of up to kDriftKept vectors a thread, which is all that the
// launcher gives to a warp, are read once; what is behind them, and rows that are not aligned, twice, the second time
// from L1/L2. A thread writes only reference elements that it alone reads.
template <typename scalar_t, int kThreads, int kRowThreads, bool kVectorised>
__global__ void __launch_bounds__(kThreads) cosine_drift_kernel(CosineDriftParams p) {
  static_assert(kRowThreads == 32 || kRowThreads == kThreads);
  __shared__ float scratch[kReduceScratch<kThreads>];
  const auto reduce = [&](float value) {
    if constexpr (kRowThreads == 32) {
      return warp_reduce_sum(value);
    } else {
      return block_reduce_sum<kThreads>(value, scratch);
    }
  };
  constexpr int kStep = kVectorised ? Vec<scalar_t>::kSize : 1;
  const int thread = threadIdx.x % kRowThreads;
  const int64_t row = static_cast<int64_t>(blockIdx.x) * (kThreads / kRowThreads) + threadIdx.x / kRowThreads;
  if (row >= p.num_rows) return;  // all threads of the row leave, here and below
  const int64_t index = p.row_index[row];
  if (index < 0) {
    if (thread == 0) p.drift[row] = 0.0f;
    return;
  }
  const scalar_t* a = static_cast<const scalar_t*>(p.signal) + row * p.signal_stride;
  scalar_t* b = static_cast<scalar_t*>(p.reference) + index * p.width;

  // Both sums add the same elements in the same order, so that equal vectors have equal sums.
  float squares_a = 0.0f, squares_b = 0.0f;
  const auto add_squares = [&](const float (&value_a)[kStep], const float (&value_b)[kStep]) {
#pragma unroll
    for (int k = 0; k < kStep; ++k) {
      squares_a += value_a[k] * value_a[k];
      squares_b += value_b[k] * value_b[k];
    }
  };
  constexpr int kKept = kVectorised ? kDriftKept : 0;
  [[maybe_unused]] Vec<scalar_t> kept_a[kDriftKept], kept_b[kDriftKept];
  if constexpr (kVectorised) {
#pragma unroll
    for (int v = 0; v < kKept; ++v) {
      const int64_t i = (v * kRowThreads + thread) * kStep;
      if (i >= p.width) break;
      kept_a[v] = load_vec(a + i);
      kept_b[v] = load_vec(b + i);
      add_squares(VecFloats<scalar_t>(kept_a[v]).value, VecFloats<scalar_t>(kept_b[v]).value);
    }
  }
  const int64_t behind_kept = (kKept * kRowThreads + thread) * kStep;
  for (int64_t i = behind_kept; i < p.width; i += kRowThreads * kStep) {
    float value_a[kStep], value_b[kStep];
    load_floats<kStep>(a + i, value_a);
    load_floats<kStep>(b + i, value_b);
    add_squares(value_a, value_b);
  }
  squares_a = reduce(squares_a);
  squares_b = reduce(squares_b);

  const float factor = drift_factor(squares_a, squares_b);
  float difference_squares = 0.0f;
  const auto add_difference = [&](const float (&value_a)[kStep], const float (&value_b)[kStep]) {
#pragma unroll
    for (int k = 0; k < kStep; ++k) {
      const float difference = value_a[k] - factor * value_b[k];
      difference_squares += difference * difference;
    }
  };
  if constexpr (kVectorised) {
#pragma unroll
    for (int v = 0; v < kKept; ++v) {
      const int64_t i = (v * kRowThreads + thread) * kStep;
      if (i >= p.width) break;
      add_difference(VecFloats<scalar_t>(kept_a[v]).value, VecFloats<scalar_t>(kept_b[v]).value);
      if (p.update) store_vec(b + i, kept_a[v]);
    }
  }
  for (int64_t i = behind_kept; i < p.width; i += kRowThreads * kStep) {
    float value_a[kStep], value_b[kStep];
    load_floats<kStep>(a + i, value_a);
    load_floats<kStep>(b + i, value_b);
    add_difference(value_a, value_b);
    if (p.update) store_floats<kStep>(b + i, value_a);  // exact: it came from this type
  }
  difference_squares = reduce(difference_squares);
  if (thread == 0) p.drift[row] = drift_of(squares_a, squares_b, difference_squares);
}

}  // namespace dlmcache::cuda
