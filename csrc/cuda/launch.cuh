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

// Up to 48 KiB, static memory included, a kernel has for the asking; 4 KiB is more than any kernel that is launched
// with dynamic memory has of static.
inline constexpr size_t kSharedBytesUnasked = (48 - 4) * 1024;

#ifdef __CUDACC__
// Lets a kernel use all the shared memory that the current device has for a block. All of it, not just what this launch
// needs: with two threads launching one kernel at a time, the smaller request must not take back the larger one. Legal
// while a stream is captured.
inline const char* allow_shared_memory(const void* kernel, size_t shared_bytes) {
  int device = 0, most = 0;
  cudaFuncAttributes attributes{};
  cudaError_t status = cudaGetDevice(&device);
  if (status == cudaSuccess) status = cudaDeviceGetAttribute(&most, cudaDevAttrMaxSharedMemoryPerBlockOptin, device);
  if (status == cudaSuccess) status = cudaFuncGetAttributes(&attributes, kernel);
  if (status == cudaSuccess) {
    most -= static_cast<int>(attributes.sharedSizeBytes);
    if (static_cast<int64_t>(shared_bytes) > most) return "a block needs more shared memory than the device has";
    status = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, most);
  }
  if (status == cudaSuccess) return nullptr;
  (void)cudaGetLastError();
  return cudaGetErrorString(status);
}
#endif

// nullptr, or what went wrong. Never synchronises.
template <typename... Params, typename... Args>
const char* launch(void (*kernel)(Params...), dim3 grid, dim3 block, size_t shared_bytes, void* stream, Args... args) {
  if (grid.x == 0 || grid.y == 0 || grid.z == 0) return "the grid is larger than the device allows";
#ifdef __CUDACC__
  if (shared_bytes > kSharedBytesUnasked) {
    if (const char* error = allow_shared_memory(reinterpret_cast<const void*>(kernel), shared_bytes)) return error;
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
