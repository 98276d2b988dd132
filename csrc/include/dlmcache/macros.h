// Compiler differences, in one place.
#pragma once

#ifdef __CUDACC__
#define DLMCACHE_HOST_DEVICE __host__ __device__ __forceinline__
#else
// always_inline: an out-of-line copy from a file compiled for AVX2 could be the one that the linker keeps for all.
#define DLMCACHE_HOST_DEVICE inline __attribute__((always_inline))
#endif

#define DLMCACHE_RESTRICT __restrict__
