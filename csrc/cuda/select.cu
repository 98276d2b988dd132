#include "cuda/select.cuh"

#include "cuda/launch.cuh"

namespace dlmcache::cuda {

const char* launch_select_rows(const SelectRowsParams& p, void* stream) {
  if (p.num_entries > INT32_MAX - 4096) return "the list has more entries than the kernel counts";
  // Blocks beyond the slots help to fill a long unused end.
  constexpr int64_t kEntriesPerBlock = 4096;
  const int64_t fillers = (p.max_rows + kEntriesPerBlock - 1) / kEntriesPerBlock;
  int64_t num_blocks = p.num_slots > fillers ? p.num_slots : fillers;
  if (num_blocks == 0) num_blocks = 1;  // for cu_selected[0]
  // One block reads a slot's scores six times: long parts deserve a large one.
  constexpr int64_t kFewEntries = 2048;
  if (p.num_entries <= kFewEntries * p.num_slots) {
    return launch(select_rows_kernel<256>, grid_1d(num_blocks), dim3(256), 0, stream, p);
  }
  return launch(select_rows_kernel<512>, grid_1d(num_blocks), dim3(512), 0, stream, p);
}

}  // namespace dlmcache::cuda
