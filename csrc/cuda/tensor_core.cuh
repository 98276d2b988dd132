// Tensor-core and asynchronous-copy instructions (sm_80 and later), one function each: PTX for a device, what it
// computes for the emulation. All are executed by a whole warp, except the copies, which are each thread's own.
#pragma once

#include <cstdint>
#include <type_traits>

#include "cuda/portable.cuh"
#include "dlmcache/dtype.h"

#ifndef __CUDACC__
#include "emulation/tensor_core.h"
#endif

namespace dlmcache::cuda {

// d[16 x 8] += a[16 x 16] b[16 x 8], scalar_t BFloat16 or Half, sums in float. With g = lane / 4 and t = lane % 4 a
// lane holds, two neighbouring elements in each 32-bit word (the lower index in the lower half),
//   a: (row g, columns 2t) (g + 8, 2t) (g, 2t + 8) (g + 8, 2t + 8)
//   b: (rows 2t, column g) (2t + 8, g)
//   d: (row g, column 2t) (g, 2t + 1) (g + 8, 2t) (g + 8, 2t + 1)
template <typename scalar_t>
__device__ __forceinline__ void mma_m16n8k16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  static_assert(std::is_same_v<scalar_t, BFloat16> || std::is_same_v<scalar_t, Half>);
#ifdef __CUDACC__
  if constexpr (std::is_same_v<scalar_t, BFloat16>) {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3},{%4,%5,%6,%7},{%8,%9},{%0,%1,%2,%3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
  } else {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3},{%4,%5,%6,%7},{%8,%9},{%0,%1,%2,%3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
  }
#else
  emulation::mma_m16n8k16<scalar_t>(d, a, b);
#endif
}

// Loads four 8 x 8 matrices of 16-bit elements from shared memory. Lane l names the row l % 8 of matrix l / 8: 8
// elements, aligned to 16 bytes. Word i of lane l then holds the elements 2 (l % 4) and the next of row l / 4 of
// matrix i, which is how mma_m16n8k16 wants them.
__device__ __forceinline__ void ldmatrix_x4(uint32_t (&words)[4], const void* row) {
#ifdef __CUDACC__
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(words[0]), "=r"(words[1]), "=r"(words[2]), "=r"(words[3])
               : "r"(static_cast<uint32_t>(__cvta_generic_to_shared(row)))
               : "memory");
#else
  emulation::ldmatrix_x4<false>(words, row);
#endif
}

// As above, each matrix transposed: word i of lane l holds rows 2 (l % 4) and the next of column l / 4.
__device__ __forceinline__ void ldmatrix_x4_transposed(uint32_t (&words)[4], const void* row) {
#ifdef __CUDACC__
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(words[0]), "=r"(words[1]), "=r"(words[2]), "=r"(words[3])
               : "r"(static_cast<uint32_t>(__cvta_generic_to_shared(row)))
               : "memory");
#else
  emulation::ldmatrix_x4<true>(words, row);
#endif
}

// Starts copying 16 bytes from global to shared memory, both aligned to 16; zeros are written, and nothing is read,
// when `valid` is false. The copies that a thread started since its last commit form a group.
__device__ __forceinline__ void cp_async16(void* shared, const void* global, bool valid = true) {
#ifdef __CUDACC__
  asm volatile(
      "cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(static_cast<uint32_t>(__cvta_generic_to_shared(shared))),
      "l"(global), "r"(valid ? 16 : 0)
      : "memory");
#else
  emulation::cp_async16(shared, global, valid);
#endif
}

__device__ __forceinline__ void cp_async_commit() {
#ifdef __CUDACC__
  asm volatile("cp.async.commit_group;" ::: "memory");
#else
  emulation::cp_async_commit();
#endif
}

// Waits until at most the last kGroups groups of this thread are still under way. Other threads see the data only
// after a barrier.
template <int kGroups>
__device__ __forceinline__ void cp_async_wait() {
#ifdef __CUDACC__
  asm volatile("cp.async.wait_group %0;" ::"n"(kGroups) : "memory");
#else
  emulation::cp_async_wait(kGroups);
#endif
}

}  // namespace dlmcache::cuda
