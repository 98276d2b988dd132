// The best entries of every slot's part of a row list: contract between the tensor boundary, the CPU loops and the
// kernels.
#pragma once

#include <cstdint>

#include "dlmcache/dtype.h"
#include "dlmcache/ordered_bits.h"

namespace dlmcache {

struct SelectRowsParams {
  int64_t num_slots;         // S
  int64_t num_entries;       // R: entries of the input list
  int64_t max_rows;          // entries of the output list
  bool largest;              // whether large scores are the good ones
  const float* score;        // [R]
  const int64_t* row_index;  // [R]
  const int64_t* cu_rows;    // [S + 1]
  const int64_t* k;          // [S] how many of each slot; 0 or less: none, the slot's count or more: all
  int64_t* selected;         // [max_rows] rows, in the order of the input list, -1 behind the last one
  int64_t* places;           // [max_rows] their entries in the input list, -1 behind the last one
  int64_t* cu_selected;      // [S + 1]
};

// Unsigned integers in the order of preference, the larger the better: NaN first, -0 like 0.
DLMCACHE_HOST_DEVICE uint32_t selection_key(float score, bool largest) {
  if (detail::is_nan(score)) return 0xffffffffu;
  const uint32_t bits = detail::ordered_bits(score);
  return largest ? bits : ~bits;
}

// How many entries slot s contributes.
DLMCACHE_HOST_DEVICE int64_t num_selected(const SelectRowsParams& p, int64_t slot) {
  const int64_t count = p.cu_rows[slot + 1] - p.cu_rows[slot], k = p.k[slot];
  return k <= 0 ? 0 : (k < count ? k : count);
}

namespace cpu {
// Slots begin to end: their parts of selected and places, at cu_selected (which is complete by then).
void select_rows(const SelectRowsParams& p, int64_t begin, int64_t end);
}  // namespace cpu

namespace cuda {
// All of the output. What does not fit into max_rows is left out, and cu_selected says so. nullptr, or what failed.
const char* launch_select_rows(const SelectRowsParams& p, void* stream);
}  // namespace cuda

}  // namespace dlmcache
