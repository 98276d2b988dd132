// Sum, maximum and argmax over a warp or a block. Every thread gets the result, and the same bits of it: the order of
// the additions depends on the number of threads alone.
//
// The functions for a block need a one-dimensional block of exactly kThreads threads, all of which call them, and
// `scratch`, kReduceScratch<kThreads> values in shared memory. They end with a barrier: scratch may be used again at
// once.
#pragma once

#include <cstdint>

#include "cuda/portable.cuh"

namespace dlmcache::cuda {

inline constexpr unsigned kFullWarp = 0xffffffffu;

template <int kThreads>
inline constexpr int kReduceScratch = kThreads / 32;

// A value and where it stands. Of equal values the one with the lowest index wins; a NaN never does.
struct ArgMax {
  float value;
  int64_t index;
};

// What every candidate but a NaN beats: the start of every search, and its result when there is no other.
__host__ __device__ __forceinline__ ArgMax argmax_identity() { return {-INFINITY, INT64_MAX}; }

__host__ __device__ __forceinline__ ArgMax better(ArgMax a, ArgMax b) {
  return b.value > a.value || (b.value == a.value && b.index < a.index) ? b : a;
}

namespace detail {

template <typename T>
__device__ __forceinline__ T shuffle_xor(T value, int lane_mask) {
  return __shfl_xor_sync(kFullWarp, value, lane_mask);
}
__device__ __forceinline__ ArgMax shuffle_xor(ArgMax value, int lane_mask) {
  return {__shfl_xor_sync(kFullWarp, value.value, lane_mask),
          static_cast<int64_t>(__shfl_xor_sync(kFullWarp, static_cast<long long>(value.index), lane_mask))};
}

struct Sum {
  template <typename T>
  __device__ __forceinline__ T operator()(T a, T b) const {
    return a + b;
  }
};
struct Max {
  __device__ __forceinline__ float operator()(float a, float b) const { return fmaxf(a, b); }
  template <typename T>
  __device__ __forceinline__ T operator()(T a, T b) const {
    return a > b ? a : b;
  }
};
struct Better {
  __device__ __forceinline__ ArgMax operator()(ArgMax a, ArgMax b) const { return better(a, b); }
};

// Two NaNs would each survive on their own side of the butterfly, and lanes would end with different results.
__device__ __forceinline__ ArgMax without_nan(ArgMax value) {
  return value.value == value.value ? value : argmax_identity();
}

// Combines each aligned group of kLanes lanes; a butterfly, so that every lane ends with the result.
template <int kLanes, typename T, typename Combine>
__device__ __forceinline__ T warp_reduce(T value, Combine combine) {
  static_assert(kLanes >= 1 && kLanes <= 32 && (kLanes & (kLanes - 1)) == 0);
#pragma unroll
  for (int lane_mask = kLanes / 2; lane_mask > 0; lane_mask /= 2) {
    value = combine(value, shuffle_xor(value, lane_mask));
  }
  return value;
}

__host__ __device__ constexpr int next_power_of_two(int n) {
  int power = 1;
  while (power < n) power *= 2;
  return power;
}

template <int kThreads, typename T, typename Combine>
__device__ __forceinline__ T block_reduce(T value, T* scratch, T identity, Combine combine) {
  static_assert(kThreads % 32 == 0 && kThreads >= 32 && kThreads <= 1024);
  constexpr int kWarps = kThreads / 32;
  constexpr int kLanes = next_power_of_two(kWarps);
  value = warp_reduce<32>(value, combine);
  if constexpr (kWarps > 1) {
    const int lane = threadIdx.x % 32;
    if (lane == 0) scratch[threadIdx.x / 32] = value;
    __syncthreads();
    // Every warp combines all partial results itself: cheaper than another trip through shared memory.
    const int partial = lane % kLanes;
    value = warp_reduce<kLanes>(partial < kWarps ? scratch[partial] : identity, combine);
    __syncthreads();
  }
  return value;
}

}  // namespace detail

template <typename T>
__device__ __forceinline__ T warp_reduce_sum(T value) {
  return detail::warp_reduce<32>(value, detail::Sum{});
}

// Of floats, a NaN is ignored when there is a number.
template <typename T>
__device__ __forceinline__ T warp_reduce_max(T value) {
  return detail::warp_reduce<32>(value, detail::Max{});
}

__device__ __forceinline__ ArgMax warp_reduce_argmax(ArgMax value) {
  return detail::warp_reduce<32>(detail::without_nan(value), detail::Better{});
}

template <int kThreads, typename T>
__device__ __forceinline__ T block_reduce_sum(T value, T* scratch) {
  return detail::block_reduce<kThreads>(value, scratch, T{0}, detail::Sum{});
}

// Of floats, a NaN is ignored when there is a number.
template <int kThreads, typename T>
__device__ __forceinline__ T block_reduce_max(T value, T* scratch) {
  // The own value is an identity of max that needs no smallest value of T.
  return detail::block_reduce<kThreads>(value, scratch, value, detail::Max{});
}

template <int kThreads>
__device__ __forceinline__ ArgMax block_reduce_argmax(ArgMax value, ArgMax* scratch) {
  return detail::block_reduce<kThreads>(detail::without_nan(value), scratch, argmax_identity(), detail::Better{});
}

}  // namespace dlmcache::cuda
