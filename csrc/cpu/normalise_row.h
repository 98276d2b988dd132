// RMSNorm of one row, for all operators that end in one.
#pragma once

#include <cmath>
#include <cstdint>

#include "cpu/simd.h"

namespace dlmcache::cpu::DLMCACHE_CPU_ARCH {

template <typename scalar_t>
inline float sum_of_squares(const scalar_t* x, int64_t width) {
  // Four accumulators hide the latency of the additions.
  FloatVec acc[4] = {};
  int64_t i = 0;
  for (; i + 4 * kLanes <= width; i += 4 * kLanes) {
    for (int u = 0; u < 4; ++u) {
      const FloatVec v = load(x + i + u * kLanes);
      acc[u] += v * v;
    }
  }
  float total = sum((acc[0] + acc[1]) + (acc[2] + acc[3]));
  for (; i < width; ++i) total += to_float(x[i]) * to_float(x[i]);
  return total;
}

template <typename scalar_t>
inline void normalise_row(const scalar_t* x, const scalar_t* weight, int64_t width, float eps, scalar_t* out) {
  const float scale = 1.0f / std::sqrt(sum_of_squares(x, width) / static_cast<float>(width) + eps);
  int64_t i = 0;
  for (; i + kLanes <= width; i += kLanes) {
    // LLaDA rounds to the storage type before it multiplies by the weight; so do we, bit for bit.
    store(out + i, round_to<scalar_t>(load(x + i) * scale) * load(weight + i));
  }
  for (; i < width; ++i) {
    const scalar_t rounded = from_float<scalar_t>(to_float(x[i]) * scale);
    out[i] = from_float<scalar_t>(to_float(rounded) * to_float(weight[i]));
  }
}

}  // namespace dlmcache::cpu::DLMCACHE_CPU_ARCH
