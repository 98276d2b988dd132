// Checks of packed row lists that several operators share.
#pragma once

#include "ops/check.h"

namespace dlmcache::ops {

// cu_rows [S + 1] of a list of num_rows entries; returns S. On a CPU the entries must start at 0, must not decrease,
// and must not pass the end of the list.
inline int64_t check_cu_rows(const char* op, const Tensor& cu_rows, int64_t num_rows, const char* name = "cu_rows") {
  const int64_t num_slots = cu_rows.size(0) - 1;
  STD_TORCH_CHECK(num_slots >= 0, op, ": ", name, " must have one entry more than there are slots, got none");
  if (!cu_rows.is_cpu()) return num_slots;
  const int64_t* offset = static_cast<const int64_t*>(cu_rows.data_ptr());
  STD_TORCH_CHECK(offset[0] == 0, op, ": ", name, "[0] is ", offset[0], ", it must be 0");
  for (int64_t slot = 0; slot < num_slots; ++slot) {
    STD_TORCH_CHECK(offset[slot] <= offset[slot + 1], op, ": ", name, "[", slot + 1, "] is ", offset[slot + 1],
                    ", less than the entry before it, ", offset[slot]);
  }
  STD_TORCH_CHECK(offset[num_slots] <= num_rows, op, ": ", name, "[", num_slots, "] is ", offset[num_slots],
                  ", but the list has ", num_rows, " entries");
  return num_slots;
}

// On a CPU: the rows that cu_rows calls used stand in their own slot, ascending. On CUDA that would need a read-back.
inline void check_listed_rows(const char* op, const Tensor& row_index, const Tensor& cu_rows, int64_t capacity) {
  if (!row_index.is_cpu()) return;
  const int64_t* row = static_cast<const int64_t*>(row_index.data_ptr());
  const int64_t* offset = static_cast<const int64_t*>(cu_rows.data_ptr());
  const int64_t num_slots = cu_rows.size(0) - 1;
  for (int64_t slot = 0; slot < num_slots; ++slot) {
    int64_t least = slot * capacity;
    for (int64_t i = offset[slot]; i < offset[slot + 1]; ++i) {
      STD_TORCH_CHECK(row[i] >= least && row[i] < (slot + 1) * capacity, op, ": row_index[", i, "] is ", row[i],
                      ", allowed in slot ", slot, " are ", least, " to ", (slot + 1) * capacity - 1, ", ascending");
      least = row[i] + 1;
    }
  }
}

// On a CPU: key counts lie in [0, capacity].
inline void check_kv_lens(const char* op, const Tensor& kv_lens, int64_t capacity) {
  if (!kv_lens.is_cpu()) return;
  const int64_t* length = static_cast<const int64_t*>(kv_lens.data_ptr());
  const int64_t num_slots = kv_lens.size(0);
  for (int64_t slot = 0; slot < num_slots; ++slot) {
    STD_TORCH_CHECK(length[slot] >= 0 && length[slot] <= capacity, op, ": kv_lens[", slot, "] is ", length[slot],
                    ", allowed are 0 to capacity = ", capacity);
  }
}

}  // namespace dlmcache::ops
