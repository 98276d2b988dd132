// Rows in 16-byte pieces: the widest load and store a thread has, converted to and from float on the way.
#pragma once

#include <cstdint>

#include "cuda/portable.cuh"
#include "dlmcache/dtype.h"

namespace dlmcache {

// CUDA's own 16-bit types beside those of dtype.h.
__host__ __device__ __forceinline__ float to_float(__nv_bfloat16 value) { return __bfloat162float(value); }
__host__ __device__ __forceinline__ float to_float(__half value) { return __half2float(value); }

template <>
__host__ __device__ __forceinline__ __nv_bfloat16 from_float<__nv_bfloat16>(float value) {
  return __float2bfloat16_rn(value);
}

template <>
__host__ __device__ __forceinline__ __half from_float<__half>(float value) {
  return __float2half_rn(value);
}

}  // namespace dlmcache

namespace dlmcache::cuda {

inline constexpr int kVectorBytes = 16;

// As many elements as one load moves. The alignment is what makes the compiler use a single 128-bit instruction.
template <typename scalar_t>
struct alignas(kVectorBytes) Vec {
  static constexpr int kSize = kVectorBytes / sizeof(scalar_t);
  scalar_t element[kSize];
};

// Whether rows that start at `pointer` and lie `stride` elements apart can be read and written by Vec.
template <typename scalar_t>
__host__ __device__ inline bool aligned16(const void* pointer, int64_t stride) {
  return reinterpret_cast<uintptr_t>(pointer) % kVectorBytes == 0 &&
         stride * static_cast<int64_t>(sizeof(scalar_t)) % kVectorBytes == 0;
}

// `address` has to be a multiple of 16 bytes: a device faults otherwise, and so does the emulation.
template <typename scalar_t>
__device__ __forceinline__ Vec<scalar_t> load_vec(const scalar_t* address) {
#ifndef __CUDACC__
  if (!aligned16<scalar_t>(address, 0))
    emulation::fail("load_vec: misaligned address %p", static_cast<const void*>(address));
#endif
  return *reinterpret_cast<const Vec<scalar_t>*>(address);
}

template <typename scalar_t>
__device__ __forceinline__ void store_vec(scalar_t* address, const Vec<scalar_t>& value) {
#ifndef __CUDACC__
  if (!aligned16<scalar_t>(address, 0))
    emulation::fail("store_vec: misaligned address %p", static_cast<void*>(address));
#endif
  *reinterpret_cast<Vec<scalar_t>*>(address) = value;
}

// kCount elements from `address` on as floats: one element (no alignment needed), or whole vectors.
template <int kCount, typename scalar_t>
__device__ __forceinline__ void load_floats(const scalar_t* address, float (&value)[kCount]) {
  if constexpr (kCount == 1) {
    value[0] = to_float(*address);
  } else {
    constexpr int kSize = Vec<scalar_t>::kSize;
    static_assert(kCount % kSize == 0, "one element or whole vectors");
#pragma unroll
    for (int first = 0; first < kCount; first += kSize) {
      const Vec<scalar_t> loaded = load_vec(address + first);
#pragma unroll
      for (int i = 0; i < kSize; ++i) value[first + i] = to_float(loaded.element[i]);
    }
  }
}

// The way back, rounding to nearest.
template <int kCount, typename scalar_t>
__device__ __forceinline__ void store_floats(scalar_t* address, const float (&value)[kCount]) {
  if constexpr (kCount == 1) {
    *address = from_float<scalar_t>(value[0]);
  } else {
    constexpr int kSize = Vec<scalar_t>::kSize;
    static_assert(kCount % kSize == 0, "one element or whole vectors");
#pragma unroll
    for (int first = 0; first < kCount; first += kSize) {
      Vec<scalar_t> stored;
#pragma unroll
      for (int i = 0; i < kSize; ++i) stored.element[i] = from_float<scalar_t>(value[first + i]);
      store_vec(address + first, stored);
    }
  }
}

}  // namespace dlmcache::cuda
