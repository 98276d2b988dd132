// How launchers start kernels: one place for grid limits and for turning a launch failure into text.
#pragma once

#include <cstdint>

#include "cuda/portable.cuh"

namespace dlmcache::cuda {

// A grid of num_blocks blocks along x; an empty dim3 (x = 0) when the count is above the hardware's limit.
inline dim3 grid_1d(int64_t num_blocks) {
  constexpr int64_t kMaxGridX = (int64_t{1} << 31) - 1;
  return dim3(num_blocks > kMaxGridX ? 0u : static_cast<unsigned>(num_blocks));
}

// nullptr, or what went wrong. Never synchronises.
template <typename... Params, typename... Args>
const char* launch(void (*kernel)(Params...), dim3 grid, dim3 block, size_t shared_bytes, void* stream, Args... args) {
  if (grid.x == 0 || grid.y == 0 || grid.z == 0) return "the grid is larger than the device allows";
#ifdef __CUDACC__
  // The default limit is 48 KiB; a kernel that needs more has to ask, once per function and device.
  if (shared_bytes > 48 * 1024) {
    const cudaError_t set =
        cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shared_bytes));
    if (set != cudaSuccess) {
      (void)cudaGetLastError();
      return cudaGetErrorString(set);
    }
  }
#endif
  DLMCACHE_LAUNCH(kernel, grid, block, shared_bytes, static_cast<cudaStream_t>(stream), args...);
#ifdef __CUDACC__
  const cudaError_t status = cudaGetLastError();
  if (status != cudaSuccess) return cudaGetErrorString(status);
#endif
  return nullptr;
}

}  // namespace dlmcache::cuda
