// How well the neighbourhood of a position is known: contract between the tensor boundary, the CPU loops and the
// kernels.
//
// A slot's region is [begin, end), G = end - begin. The density of position i in it is the mean of known_j under a
// Gaussian window, weights w(i - j) = exp(-(i - j)^2 / (2 sigma^2)), j over [begin - G, end + G). To the left of the
// region everything counts as known, to its right everything or nothing, as its last position is.
#pragma once

#include <cstdint>

#include "dlmcache/macros.h"

namespace dlmcache {

struct DensityParams {
  int64_t num_slots;      // S
  int64_t capacity;       // positions of a slot
  double inv_two_sigma2;  // 1 / (2 sigma^2)
  int64_t reach;          // weights of larger distances are below the smallest float
  const bool* known;      // [S * capacity]
  const int64_t* begin;   // [S]
  const int64_t* end;     // [S], at most capacity; end <= begin: no region
  float* out;             // [S * capacity], zeros outside of the regions
};

namespace cpu {

// Positions [begin, end) of all slots.
void density_rows(const DensityParams& p, int64_t begin, int64_t end);

}  // namespace cpu

namespace cuda {

// nullptr, or what the launch failed with.
const char* launch_density(const DensityParams& p, void* stream);

}  // namespace cuda

}  // namespace dlmcache
