// One uniform number per row: contract between the tensor boundary, the CPU loops and the kernels.
#pragma once

#include <cstdint>

#include "dlmcache/philox.h"

namespace dlmcache {

struct UniformRowsParams {
  int64_t num_rows;          // R
  int64_t capacity;          // positions of a slot
  uint32_t stream;           // what the numbers are for
  const int64_t* row_index;  // [num_rows], slot * capacity + position, or -1: unused
  const int64_t* seeds;      // [slots]
  const int64_t* ticks;      // [slots]
  float* out;                // [num_rows], in (0, 1); 0 for unused rows
};

DLMCACHE_HOST_DEVICE float uniform_of_row(const UniformRowsParams& p, int64_t row) {
  const int64_t index = p.row_index[row];
  if (index < 0) return 0.0f;
  const int64_t slot = index / p.capacity;
  return uniform_from_word(draw(p.seeds[slot], p.ticks[slot], index - slot * p.capacity, p.stream, 0).word[0]);
}

namespace cpu {
void uniform_rows(const UniformRowsParams& p, int64_t begin, int64_t end);
}  // namespace cpu

namespace cuda {
// nullptr, or what the launch failed with.
const char* launch_uniform_rows(const UniformRowsParams& p, void* stream);
}  // namespace cuda

}  // namespace dlmcache
