// RoPE of freshly projected rows, written straight to where attention reads them.
#pragma once

#include "cuda/portable.cuh"
#include "cuda/vec.cuh"
#include "dlmcache/rope_cache.h"

namespace dlmcache::cuda {

// Grid: (num_rows, parts of a row). Block: any multiple of 32 up to 256. The work of a row is a list of items, first
// the rotations (kStep elements of the lower half of a head and their kStep partners of the upper half), then the
// copies of v (kStep elements); a thread takes every (blockDim.x * gridDim.y)-th item. Each byte is moved once.
template <typename scalar_t, bool kVectorised>
__global__ void __launch_bounds__(256) rope_scatter_kv_kernel(RopeScatterKvParams p) {
  constexpr int kStep = kVectorised ? Vec<scalar_t>::kSize : 1;
  const int64_t row = blockIdx.x;
  const int64_t index = p.row_index[row];
  const int half = static_cast<int>(p.head_dim / 2);
  const int items_per_head = half / kStep;
  const int num_rotations = static_cast<int>(p.num_heads + p.num_kv_heads) * items_per_head;
  const int num_items = num_rotations + static_cast<int>(p.num_kv_heads) * 2 * items_per_head;
  const int step = blockDim.x * gridDim.y;

  const scalar_t* x = static_cast<const scalar_t*>(p.qkv) + row * p.qkv_stride;
  scalar_t* q = static_cast<scalar_t*>(p.q) + row * p.num_heads * p.head_dim;
  const int64_t cache_row = index * p.num_kv_heads * p.head_dim;
  // Only dereferenced where index >= 0.
  scalar_t* k = static_cast<scalar_t*>(p.k_cache) + (index < 0 ? 0 : cache_row);
  scalar_t* v = static_cast<scalar_t*>(p.v_cache) + (index < 0 ? 0 : cache_row);
  const float* angles = p.cos_sin + (index < 0 ? 0 : index % p.capacity) * p.head_dim;

  for (int item = blockIdx.y * blockDim.x + threadIdx.x; item < num_items; item += step) {
    if (item >= num_rotations) {
      if (index < 0) return;
      const int64_t i = static_cast<int64_t>(item - num_rotations) * kStep;
      const scalar_t* value = x + (p.num_heads + p.num_kv_heads) * p.head_dim + i;
      if constexpr (kVectorised) {
        store_vec(v + i, load_vec(value));
      } else {
        v[i] = *value;
      }
      continue;
    }
    const int head = item / items_per_head;
    const int i = (item - head * items_per_head) * kStep;
    const int64_t low_place = head * p.head_dim + i;
    float low[kStep], high[kStep];
    if (index < 0) {
      if (head >= p.num_heads) return;
#pragma unroll
      for (int e = 0; e < kStep; ++e) low[e] = high[e] = 0.0f;
    } else {
      float cosine[kStep], sine[kStep];
      load_floats<kStep>(x + low_place, low);
      load_floats<kStep>(x + low_place + half, high);
      load_floats<kStep>(angles + i, cosine);
      load_floats<kStep>(angles + half + i, sine);
#pragma unroll
      for (int e = 0; e < kStep; ++e) {
        const float turned = low[e] * cosine[e] - high[e] * sine[e];
        high[e] = high[e] * cosine[e] + low[e] * sine[e];
        low[e] = turned;
      }
    }
    scalar_t* out = head < p.num_heads ? q + low_place : k + (low_place - p.num_heads * p.head_dim);
    store_floats<kStep>(out, low);
    store_floats<kStep>(out + half, high);
  }
}

}  // namespace dlmcache::cuda
