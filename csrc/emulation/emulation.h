// Runs CUDA kernels on the host: every CUDA thread is a fiber, a block's fibers share one host thread. README.md tells
// what this finds and what it cannot. Kernels do not include this header but cuda/portable.cuh.
//
//   config.h           sanitizers, limits            block.h   fibers of a block, scheduler, reports
//   sanitizers.h       what sanitizers are told      barrier.h, warp.h   where threads meet
//   context.h          stacks and switching          launch.h  checks and the loop over blocks
//   builtins.h, warp_primitives.h, atomics.h, intrinsics.h   CUDA's names for all this
#pragma once

#ifdef __CUDACC__
#error "nvcc compiles kernels for a device; include cuda/portable.cuh, which chooses"
#endif

// Types, and half and bfloat16 with their conversions, come from CUDA's own headers; its libraries are not needed.
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include "emulation/atomics.h"
#include "emulation/builtins.h"
#include "emulation/intrinsics.h"
#include "emulation/launch.h"
#include "emulation/warp_primitives.h"

#define DLMCACHE_LAUNCH(kernel, grid, block, shared_bytes, stream, ...)                                             \
  (static_cast<void>(stream),                                                                                       \
   ::dlmcache::emulation::launch_kernel(#kernel, ::dlmcache::emulation::SourceLine::current(), kernel, grid, block, \
                                        shared_bytes __VA_OPT__(, ) __VA_ARGS__))

#define DLMCACHE_DYNAMIC_SHARED(T, name) T* const name = reinterpret_cast<T*>(::dlmcache::emulation::dynamic_shared())
