// Carrying rows over a layer that computed only some of them, and the norm that follows.
#pragma once

#include "cuda/normalise_row.cuh"
#include "cuda/portable.cuh"
#include "cuda/vec.cuh"
#include "dlmcache/delta.h"

namespace dlmcache::cuda {

// a + b, rounded to the storage type as torch's additions are.
template <typename scalar_t>
__device__ __forceinline__ float add_rounded(float a, float b) {
  return to_float(from_float<scalar_t>(a + b));
}

// Grid: (num_rows). Block: kThreads. One block carries one row: it looks the row up among the computed ones, makes its
// new delta or takes the old, and normalises what it has just written. Each element belongs to one thread throughout,
// so that only the sum of squares needs a barrier. (Four blocks per multiprocessor are 64 registers: nothing spills.)
template <typename scalar_t, int kThreads, bool kVectorised>
__global__ void __launch_bounds__(kThreads, 4) delta_update_kernel(DeltaUpdateParams p) {
  __shared__ float scratch[kReduceScratch<kThreads>];
  constexpr int kStep = kVectorised ? Vec<scalar_t>::kSize : 1;
  const int64_t row = blockIdx.x;
  const int64_t index = p.row_index[row];
  scalar_t* out = static_cast<scalar_t*>(p.h_next) + row * p.width;
  scalar_t* normed = p.norm_weight ? static_cast<scalar_t*>(p.normed) + row * p.width : nullptr;
  if (index < 0) {  // the whole block leaves
    float zeros[kStep] = {};
    for (int64_t i = threadIdx.x * kStep; i < p.width; i += kThreads * kStep) {
      store_floats<kStep>(out + i, zeros);
      if (normed) store_floats<kStep>(normed + i, zeros);
    }
    return;
  }
  const scalar_t* h = static_cast<const scalar_t*>(p.h) + row * p.h_stride;
  scalar_t* delta = static_cast<scalar_t*>(p.delta) + index * p.width;
  const int64_t computed = first_place_from(p, row);
  const bool is_computed = computed < p.num_computed && p.places[computed] == row;
  // Only dereferenced where the row was computed.
  const scalar_t* attn = static_cast<const scalar_t*>(p.attn_out) + (is_computed ? computed * p.attn_stride : 0);
  const scalar_t* ff = static_cast<const scalar_t*>(p.ff_out) + (is_computed ? computed * p.ff_stride : 0);

  float squares = 0.0f;
  for (int64_t i = threadIdx.x * kStep; i < p.width; i += kThreads * kStep) {
    float before[kStep], change[kStep];
    load_floats<kStep>(h + i, before);
    if (is_computed) {
      float ff_value[kStep];
      load_floats<kStep>(attn + i, change);
      load_floats<kStep>(ff + i, ff_value);
#pragma unroll
      for (int k = 0; k < kStep; ++k) {
        const float base = p.absolute ? add_rounded<scalar_t>(before[k], change[k]) : change[k];
        change[k] = add_rounded<scalar_t>(base, ff_value[k]);
      }
      store_floats<kStep>(delta + i, change);
    } else {
      load_floats<kStep>(delta + i, change);
    }
#pragma unroll
    for (int k = 0; k < kStep; ++k) {
      if (!p.absolute) change[k] = add_rounded<scalar_t>(before[k], change[k]);
      squares += change[k] * change[k];
    }
    store_floats<kStep>(out + i, change);
  }
  if (!normed) return;
  normalise_row<scalar_t, kThreads, kVectorised>(out, squares, static_cast<const scalar_t*>(p.norm_weight), p.width,
                                                 p.eps, normed, scratch);
}

}  // namespace dlmcache::cuda
