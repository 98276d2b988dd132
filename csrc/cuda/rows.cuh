// Copies of selected rows, in units as wide as the alignment of the rows allows.
#pragma once

#include "cuda/portable.cuh"
#include "dlmcache/rows.h"

namespace dlmcache::cuda {

// kBytes at a time; the alignment makes it one load and one store.
template <int kBytes>
struct alignas(kBytes) CopyUnit {
  unsigned char bytes[kBytes];
};

// Grid: (groups of blockDim.y rows, parts of a row). Block: (threads per row, rows). A thread copies every
// (blockDim.x * gridDim.y)-th unit of one row, so wide rows are spread over blocks and narrow rows share one.
template <int kBytes, bool kScatter>
__global__ void __launch_bounds__(256) copy_rows_kernel(RowsParams p) {
  using Unit = CopyUnit<kBytes>;
  const int64_t row = static_cast<int64_t>(blockIdx.x) * blockDim.y + threadIdx.y;
  if (row >= p.num_rows) return;
  const int64_t index = p.row_index[row];
  const bool unused = index < 0;
  if (kScatter && unused) return;

  const int64_t num_units = p.row_bytes / kBytes;
  const Unit* source = static_cast<const Unit*>(p.source) + (kScatter ? row : unused ? 0 : index) * num_units;
  Unit* destination = static_cast<Unit*>(p.destination) + (kScatter ? index : row) * num_units;
  const int64_t step = static_cast<int64_t>(blockDim.x) * gridDim.y;
  for (int64_t i = static_cast<int64_t>(blockIdx.y) * blockDim.x + threadIdx.x; i < num_units; i += step) {
    destination[i] = unused ? Unit{} : source[i];
  }
}

}  // namespace dlmcache::cuda
