#include "cuda/random.cuh"

#include "cuda/launch.cuh"

namespace dlmcache::cuda {

const char* launch_uniform_rows(const UniformRowsParams& p, void* stream) {
  if (p.num_rows == 0) return nullptr;
  constexpr int kThreads = 128;
  return launch(uniform_rows_kernel<kThreads>, grid_1d((p.num_rows + kThreads - 1) / kThreads), dim3(kThreads), 0,
                stream, p);
}

}  // namespace dlmcache::cuda
