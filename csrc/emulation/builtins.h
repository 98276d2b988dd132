// Qualifiers, index variables, barriers and fences under their CUDA names.
#pragma once

#include "emulation/barrier.h"
#include "emulation/block.h"

// CUDA's headers define these for any host compiler; what they stand for there is of no use here.
#undef __shared__
#undef __launch_bounds__
#undef __grid_constant__
#define __launch_bounds__(...)
#define __grid_constant__

// A host thread runs one block at a time, so its thread-local variables are the block's shared ones. Under a sanitizer
// everything runs on one host thread, and plain static variables are those that AddressSanitizer surrounds with guards.
#if defined(DLMCACHE_EMULATION_ASAN) || defined(DLMCACHE_EMULATION_TSAN)
#define __shared__ static
#else
#define __shared__ static thread_local
#endif

#define threadIdx (::dlmcache::emulation::thread_index())
#define blockIdx (::dlmcache::emulation::block_index())
#define blockDim (::dlmcache::emulation::block_dim())
#define gridDim (::dlmcache::emulation::grid_dim())
inline constexpr int warpSize = ::dlmcache::emulation::kWarpSize;

inline void __syncthreads(dlmcache::emulation::SourceLine where = dlmcache::emulation::SourceLine::current()) {
  dlmcache::emulation::wait_at_barrier(false, "__syncthreads", where);
}

inline int __syncthreads_count(int predicate,
                               dlmcache::emulation::SourceLine where = dlmcache::emulation::SourceLine::current()) {
  return dlmcache::emulation::wait_at_barrier(predicate != 0, "__syncthreads_count", where).num_true;
}

inline int __syncthreads_or(int predicate,
                            dlmcache::emulation::SourceLine where = dlmcache::emulation::SourceLine::current()) {
  return dlmcache::emulation::wait_at_barrier(predicate != 0, "__syncthreads_or", where).num_true > 0;
}

inline int __syncthreads_and(int predicate,
                             dlmcache::emulation::SourceLine where = dlmcache::emulation::SourceLine::current()) {
  const auto result = dlmcache::emulation::wait_at_barrier(predicate != 0, "__syncthreads_and", where);
  return result.num_true == result.num_threads;
}

// A real fence between blocks on different cores. Inside a block, where one thread runs at a time, there is nothing
// to order, and ThreadSanitizer is not told of it: threads of a block that pass data through a fence and a flag
// instead of a barrier are reported.
inline void __threadfence() {
#if !defined(DLMCACHE_EMULATION_TSAN)
  __atomic_thread_fence(__ATOMIC_SEQ_CST);
#endif
}
inline void __threadfence_block() { __threadfence(); }

[[noreturn]] inline void __trap() { dlmcache::emulation::fail("__trap"); }
