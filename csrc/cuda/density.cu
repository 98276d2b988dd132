#include "cuda/density.cuh"

#include "cuda/launch.cuh"

namespace dlmcache::cuda {

const char* launch_density(const DensityParams& p, void* stream) {
  const int64_t positions = p.num_slots * p.capacity;
  if (positions == 0) return nullptr;
  const int64_t blocks = (positions + kDensityWarps - 1) / kDensityWarps;
  return launch(density_kernel, grid_1d(blocks), dim3(32 * kDensityWarps), 0, stream, p);
}

}  // namespace dlmcache::cuda
