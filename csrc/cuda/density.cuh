// Density of known positions under a Gaussian window.
#pragma once

#include "cuda/portable.cuh"
#include "cuda/reduce.cuh"
#include "dlmcache/density.h"

namespace dlmcache::cuda {

inline constexpr int kDensityWarps = 8;

// Grid: (positions / kDensityWarps). Block: 32 * kDensityWarps. A warp sums the window of one position, every 32nd
// neighbour per lane. Numerator and denominator are summed in the same order, so that where everything is known their
// quotient is exactly 1.
static __global__ void __launch_bounds__(32 * kDensityWarps) density_kernel(DensityParams p) {
  const int lane = threadIdx.x % 32;
  const int64_t row = static_cast<int64_t>(blockIdx.x) * kDensityWarps + threadIdx.x / 32;
  if (row >= p.num_slots * p.capacity) return;
  const int64_t slot = row / p.capacity, position = row - slot * p.capacity;
  const int64_t begin = p.begin[slot], end = p.end[slot];
  if (position < begin || position >= end) {
    if (lane == 0) p.out[row] = 0.0f;
    return;
  }
  const bool* known = p.known + slot * p.capacity;
  const bool known_right = known[end - 1];
  const int64_t region = end - begin;
  const int64_t first = max(begin - region, position - p.reach);
  const int64_t last = min(end + region - 1, position + p.reach);
  const float exponent = static_cast<float>(-1.44269504088896 * p.inv_two_sigma2);  // of exp2f
  float inside = 0.0f, total = 0.0f;
  for (int64_t j = first + lane; j <= last; j += 32) {
    const float distance = static_cast<float>(j - position);
    const float weight = exp2f(distance * distance * exponent);
    const bool counts = j < begin || (j < end ? known[j] : known_right);
    inside += counts ? weight : 0.0f;
    total += weight;
  }
  inside = warp_reduce_sum(inside);
  total = warp_reduce_sum(total);
  if (lane == 0) p.out[row] = inside / total;
}

}  // namespace dlmcache::cuda
