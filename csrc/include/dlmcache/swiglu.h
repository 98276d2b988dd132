// Gated activation of the feed-forward layer: contract between the tensor boundary, the CPU loops and the kernels.
#pragma once

#include <cstdint>

#include "dlmcache/dtype.h"

namespace dlmcache {

struct SwigluParams {
  DType dtype;          // of gate_up and out
  int64_t num_rows;     // R
  int64_t width;        // F
  const void* gate_up;  // [num_rows, 2 * width]: gate, then up; rows gate_up_stride elements apart
  int64_t gate_up_stride;
  void* out;  // [num_rows, width], contiguous
};

namespace cpu {
void swiglu_rows(const SwigluParams& p, int64_t begin, int64_t end);
}  // namespace cpu

namespace cuda {
// nullptr, or what the launch failed with.
const char* launch_swiglu(const SwigluParams& p, void* stream);
}  // namespace cuda

}  // namespace dlmcache
