// Copies of selected rows: contract between the tensor boundary, the CPU loops and the kernels.
#pragma once

#include <cstdint>

namespace dlmcache {

// Rows are bytes here: a copy does not care for the type. Entries of row_index are -1 where unused.
struct RowsParams {
  int64_t num_rows;          // R: entries of row_index
  int64_t row_bytes;         // bytes of one row
  const void* source;        // gather: [M, row_bytes]; scatter: [num_rows, row_bytes]; contiguous
  const int64_t* row_index;  // [num_rows]
  void* destination;         // gather: [num_rows, row_bytes], zeros where unused; scatter: [M, row_bytes]
};

namespace cpu {
void gather_rows(const RowsParams& p, int64_t begin, int64_t end);
void scatter_rows(const RowsParams& p, int64_t begin, int64_t end);
}  // namespace cpu

namespace cuda {
// nullptr, or what the launch failed with.
const char* launch_gather_rows(const RowsParams& p, void* stream);
const char* launch_scatter_rows(const RowsParams& p, void* stream);
}  // namespace cuda

}  // namespace dlmcache
