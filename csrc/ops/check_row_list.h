// Checks of packed row lists that several operators share.
#pragma once

#include "ops/check.h"

namespace dlmcache::ops {

// cu_rows [S + 1] of a list of num_rows entries; returns S. On a CPU the entries must start at 0, must not decrease,
// and must not pass the end of the list.
inline int64_t check_cu_rows(const char* op, const Tensor& cu_rows, int64_t num_rows) {
  const int64_t num_slots = cu_rows.size(0) - 1;
  STD_TORCH_CHECK(num_slots >= 0, op, ": cu_rows must have one entry more than there are slots, got none");
  if (!cu_rows.is_cpu()) return num_slots;
  const int64_t* offset = static_cast<const int64_t*>(cu_rows.data_ptr());
  STD_TORCH_CHECK(offset[0] == 0, op, ": cu_rows[0] is ", offset[0], ", it must be 0");
  for (int64_t slot = 0; slot < num_slots; ++slot) {
    STD_TORCH_CHECK(offset[slot] <= offset[slot + 1], op, ": cu_rows[", slot + 1, "] is ", offset[slot + 1],
                    ", less than the entry before it, ", offset[slot]);
  }
  STD_TORCH_CHECK(offset[num_slots] <= num_rows, op, ": cu_rows[", num_slots, "] is ", offset[num_slots],
                  ", but the list has ", num_rows, " entries");
  return num_slots;
}

}  // namespace dlmcache::ops
