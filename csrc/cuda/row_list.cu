#include "cuda/row_list.cuh"

#include "cuda/launch.cuh"

namespace dlmcache::cuda {

const char* launch_build_rows(const BuildRowsParams& p, void* stream) {
  constexpr int kThreads = 256;
  if (p.flags && p.num_slots > 0) {
    const char* error = launch(count_rows_kernel<kThreads>, grid_1d(p.num_slots), dim3(kThreads), 0, stream, p);
    if (error) return error;
  }
  // Blocks beyond the slots help to fill a long unused end.
  constexpr int64_t kEntriesPerBlock = 4096;
  const int64_t fillers = (p.max_rows + kEntriesPerBlock - 1) / kEntriesPerBlock;
  int64_t num_blocks = p.num_slots > fillers ? p.num_slots : fillers;
  if (num_blocks == 0) num_blocks = 1;  // for cu_rows[0]
  return launch(build_rows_kernel<kThreads>, grid_1d(num_blocks), dim3(kThreads), 0, stream, p);
}

const char* launch_find_rows(const FindRowsParams& p, void* stream) {
  if (p.num_queries == 0) return nullptr;
  constexpr int kThreads = 128;
  return launch(find_rows_kernel<kThreads>, grid_1d((p.num_queries + kThreads - 1) / kThreads), dim3(kThreads), 0,
                stream, p);
}

}  // namespace dlmcache::cuda
