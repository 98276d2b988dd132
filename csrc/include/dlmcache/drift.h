// How far rows have moved from what they were: contract between the tensor boundary, the CPU loops and the kernels.
#pragma once

#include <cmath>
#include <cstdint>

#include "dlmcache/dtype.h"

namespace dlmcache {

struct CosineDriftParams {
  DType dtype;         // of signal and reference
  int64_t num_rows;    // R
  int64_t width;       // r
  bool update;         // whether the reference rows become the signal
  const void* signal;  // [num_rows, width], rows signal_stride elements apart
  int64_t signal_stride;
  void* reference;           // [M, width], contiguous
  const int64_t* row_index;  // [num_rows] rows of reference, -1 marks an unused entry
  float* drift;              // [num_rows]; 0 where unused
};

// The drift is 0.5 |a/|a| - b/|b||^2 = 0.5 |a - (|a|/|b|) b|^2 / |a|^2, which for equal vectors is 0 to the bit: the
// ratio of the lengths is 1, and a - 1 * b is exact, contracted or not. These are its parts beside the sums.

// The factor of b. Of no consequence (but no division by zero) where a length is zero.
DLMCACHE_HOST_DEVICE float drift_factor(float squares_a, float squares_b) {
  return squares_b > 0.0f ? sqrtf(squares_a) / sqrtf(squares_b) : 0.0f;
}

// A product that a library computes of other rows beside it, or of fewer columns, has other last bits: of vectors that
// are the same it leaves some 1e-14. What is less than this has moved by less than 1.5e-6 of its length.
inline constexpr float kDriftNoise = 1e-12f;

// `squares_difference` is the sum of (a - factor * b)^2. Not a number where a square is not finite.
DLMCACHE_HOST_DEVICE float drift_of(float squares_a, float squares_b, float squares_difference) {
  if (!(squares_a < INFINITY && squares_b < INFINITY)) return NAN;
  if (squares_a == 0.0f) return squares_b == 0.0f ? 0.0f : 1.0f;
  if (squares_b == 0.0f) return 1.0f;
  const float drift = 0.5f * (squares_difference / squares_a);
  return drift < kDriftNoise ? 0.0f : drift;
}

namespace cpu {
void cosine_drift_rows(const CosineDriftParams& p, int64_t begin, int64_t end);
}  // namespace cpu

namespace cuda {
// nullptr, or what the launch failed with.
const char* launch_cosine_drift(const CosineDriftParams& p, void* stream);
}  // namespace cuda

}  // namespace dlmcache
