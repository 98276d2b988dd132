// RMSNorm of one row by one block, for all kernels that end in one.
#pragma once

#include "cuda/portable.cuh"
#include "cuda/reduce.cuh"
#include "cuda/vec.cuh"

namespace dlmcache::cuda {

// out = x / sqrt(mean of squares + eps) * weight, where each thread brings the sum of squares of the elements that it
// reads here again: steps of kVectorised ? one vector : one element, kThreads steps apart.
template <typename scalar_t, int kThreads, bool kVectorised>
__device__ __forceinline__ void normalise_row(const scalar_t* x, float squares, const scalar_t* weight, int64_t width,
                                              float eps, scalar_t* out, float* scratch) {
  constexpr int kStep = kVectorised ? Vec<scalar_t>::kSize : 1;
  const float total = block_reduce_sum<kThreads>(squares, scratch);
  const float scale = 1.0f / sqrtf(total / static_cast<float>(width) + eps);
  for (int64_t i = threadIdx.x * kStep; i < width; i += kThreads * kStep) {
    float value[kStep], factor[kStep];
    load_floats<kStep>(x + i, value);
    load_floats<kStep>(weight + i, factor);
#pragma unroll
    for (int k = 0; k < kStep; ++k) {
      // Rounded to the storage type before the weight, as LLaDA does.
      value[k] = to_float(from_float<scalar_t>(value[k] * scale)) * factor[k];
    }
    store_floats<kStep>(out + i, value);
  }
}

}  // namespace dlmcache::cuda
