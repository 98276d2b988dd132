#include "cuda/commit.cuh"

#include "cuda/launch.cuh"

namespace dlmcache::cuda {

const char* launch_commit(const CommitParams& p, void* stream) {
  const dim3 grid = grid_1d(p.num_slots + 1);
  // On a long canvas the passes over it, on a short one the barriers decide.
  if (p.capacity > 2048) return launch(commit_kernel<512, 4096>, grid, dim3(512), 0, stream, p);
  return launch(commit_kernel<256, 2048>, grid, dim3(256), 0, stream, p);
}

}  // namespace dlmcache::cuda
