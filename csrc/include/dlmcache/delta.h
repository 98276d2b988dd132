// What a layer adds to a row, kept for the steps that do not compute the row there: contract between the tensor
// boundary, the CPU loops and the kernels.
#pragma once

#include <cstdint>

#include "dlmcache/dtype.h"
#include "dlmcache/macros.h"

namespace dlmcache {

struct DeltaUpdateParams {
  DType dtype;           // of all floating tensors
  int64_t num_rows;      // R: carried rows
  int64_t num_computed;  // K
  int64_t width;         // W
  bool absolute;         // whether delta holds the layer's output itself
  float eps;
  void* delta;    // [M, width], contiguous
  const void* h;  // [num_rows, width], rows h_stride elements apart: what entered the layer
  int64_t h_stride;
  const int64_t* row_index;  // [num_rows] rows of delta, -1 marks an unused entry
  const void* attn_out;      // [num_computed, width], rows attn_stride elements apart
  int64_t attn_stride;
  const void* ff_out;  // [num_computed, width], rows ff_stride elements apart
  int64_t ff_stride;
  const int64_t* places;    // [num_computed] where computed rows stand among the carried; ascending, -1 behind
  const void* norm_weight;  // [width] or nullptr
  void* h_next;             // [num_rows, width], contiguous; zeros where unused
  void* normed;             // like h_next, unless norm_weight is nullptr
};

// The first entry of places that is not below `place`; the unused ones at the end are as unsigned the largest.
DLMCACHE_HOST_DEVICE int64_t first_place_from(const DeltaUpdateParams& p, int64_t place) {
  int64_t low = 0, high = p.num_computed;
  while (low < high) {
    const int64_t middle = low + (high - low) / 2;
    if (static_cast<uint64_t>(p.places[middle]) < static_cast<uint64_t>(place)) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  return low;
}

namespace cpu {
// Carried rows begin to end.
void delta_update_rows(const DeltaUpdateParams& p, int64_t begin, int64_t end);
}  // namespace cpu

namespace cuda {
// nullptr, or what the launch failed with.
const char* launch_delta_update(const DeltaUpdateParams& p, void* stream);
}  // namespace cuda

}  // namespace dlmcache
