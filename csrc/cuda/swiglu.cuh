// silu(gate) * up.
#pragma once

#include "cuda/portable.cuh"
#include "cuda/vec.cuh"
#include "dlmcache/swiglu.h"

namespace dlmcache::cuda {

// Grid: (num_rows, parts of a row). Block: any multiple of 32 up to 256. A thread takes every
// (blockDim.x * gridDim.y)-th vector of a row.
template <typename scalar_t, bool kVectorised>
__global__ void __launch_bounds__(256) swiglu_kernel(SwigluParams p) {
  constexpr int kStep = kVectorised ? Vec<scalar_t>::kSize : 1;
  const int64_t row = blockIdx.x;
  const scalar_t* gate = static_cast<const scalar_t*>(p.gate_up) + row * p.gate_up_stride;
  const scalar_t* up = gate + p.width;
  scalar_t* out = static_cast<scalar_t*>(p.out) + row * p.width;
  const int64_t step = static_cast<int64_t>(blockDim.x) * gridDim.y * kStep;
  for (int64_t i = (static_cast<int64_t>(blockIdx.y) * blockDim.x + threadIdx.x) * kStep; i < p.width; i += step) {
    float value[kStep], factor[kStep];
    load_floats<kStep>(gate + i, value);
    load_floats<kStep>(up + i, factor);
#pragma unroll
    for (int e = 0; e < kStep; ++e) {
      // Rounded to the storage type before the product, as torch's silu(gate) * up does.
      value[e] = to_float(from_float<scalar_t>(value[e] / (1.0f + expf(-value[e])))) * factor[e];
    }
    store_floats<kStep>(out + i, value);
  }
}

}  // namespace dlmcache::cuda
