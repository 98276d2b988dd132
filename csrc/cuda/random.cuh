// One uniform number per row.
#pragma once

#include "cuda/portable.cuh"
#include "dlmcache/random.h"

namespace dlmcache::cuda {

// Grid: (num_rows / kThreads, rounded up). Block: kThreads. One thread draws one number.
template <int kThreads>
__global__ void __launch_bounds__(kThreads) uniform_rows_kernel(UniformRowsParams p) {
  const int64_t row = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (row < p.num_rows) p.out[row] = uniform_of_row(p, row);
}

}  // namespace dlmcache::cuda
