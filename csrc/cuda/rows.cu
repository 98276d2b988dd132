#include "cuda/rows.cuh"

#include "cuda/launch.cuh"

namespace dlmcache::cuda {
namespace {

// The widest unit that divides a row and its two addresses.
int unit_bytes(const RowsParams& p) {
  const uint64_t bits = reinterpret_cast<uintptr_t>(p.source) | reinterpret_cast<uintptr_t>(p.destination) |
                        static_cast<uint64_t>(p.row_bytes);
  for (const int bytes : {16, 8, 4, 2}) {
    if (bits % bytes == 0) return bytes;
  }
  return 1;
}

template <int kBytes, bool kScatter>
const char* launch_copy(const RowsParams& p, void* stream) {
  constexpr int kThreads = 256;
  const int64_t num_units = p.row_bytes / kBytes;
  unsigned threads_per_row = 1;
  while (threads_per_row < kThreads && threads_per_row < num_units) threads_per_row *= 2;
  const unsigned rows_per_block = kThreads / threads_per_row;
  // Two units per thread in flight hide the latency; beyond the limit of the grid a thread takes more.
  const int64_t parts = (num_units + 2 * threads_per_row - 1) / (2 * threads_per_row);
  dim3 grid = grid_1d((p.num_rows + rows_per_block - 1) / rows_per_block);
  grid.y = static_cast<unsigned>(parts < 65535 ? parts : 65535);
  return launch(copy_rows_kernel<kBytes, kScatter>, grid, dim3(threads_per_row, rows_per_block), 0, stream, p);
}

template <bool kScatter>
const char* launch_copy_rows(const RowsParams& p, void* stream) {
  if (p.num_rows == 0 || p.row_bytes == 0) return nullptr;
  switch (unit_bytes(p)) {
    case 16:
      return launch_copy<16, kScatter>(p, stream);
    case 8:
      return launch_copy<8, kScatter>(p, stream);
    case 4:
      return launch_copy<4, kScatter>(p, stream);
    case 2:
      return launch_copy<2, kScatter>(p, stream);
    default:
      return launch_copy<1, kScatter>(p, stream);
  }
}

}  // namespace

const char* launch_gather_rows(const RowsParams& p, void* stream) { return launch_copy_rows<false>(p, stream); }

const char* launch_scatter_rows(const RowsParams& p, void* stream) { return launch_copy_rows<true>(p, stream); }

}  // namespace dlmcache::cuda
