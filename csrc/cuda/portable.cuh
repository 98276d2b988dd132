// The only header through which kernels see CUDA. nvcc compiles them for a GPU; any other C++ compiler gets
// csrc/emulation, which runs the same source on the host (see csrc/emulation/README.md).
//
// Kernels spell everything as CUDA does, with two exceptions that plain C++ cannot parse:
//   DLMCACHE_LAUNCH(kernel, grid, block, shared_bytes, stream, args...)    kernel<<<...>>>(args...)
//   DLMCACHE_DYNAMIC_SHARED(T, name);                                      extern __shared__ T name[]
// A kernel name with a comma in it goes into parentheses: DLMCACHE_LAUNCH((copy_kernel<float, 4>), ...).
#pragma once

#ifdef __CUDACC__

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#define DLMCACHE_LAUNCH(kernel, grid, block, shared_bytes, stream, ...) \
  kernel<<<grid, block, shared_bytes, stream>>>(__VA_ARGS__)

// One untyped array serves every kernel of a file: redeclaring it with another element type would be an error.
// 128 bytes is what the strictest user (a bulk copy) needs.
#define DLMCACHE_DYNAMIC_SHARED(T, name)                                          \
  extern __shared__ __align__(128) unsigned char dlmcache_dynamic_shared_bytes[]; \
  T* const name = reinterpret_cast<T*>(dlmcache_dynamic_shared_bytes)

#else

#include "emulation/emulation.h"

#endif
