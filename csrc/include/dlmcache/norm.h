// RMSNorm of selected rows, and of sums: contract between the tensor boundary, the CPU loops and the kernels.
#pragma once

#include <cstdint>

#include "dlmcache/dtype.h"

namespace dlmcache {

struct RmsNormParams {
  DType dtype;       // of x, weight and out
  int64_t num_rows;  // R: rows written
  int64_t width;     // W
  float eps;
  const void* x;  // [*, width], rows x_stride elements apart
  int64_t x_stride;
  const void* weight;        // [width]
  const int64_t* row_index;  // [num_rows] or nullptr: row r of the result is row r of x; -1 marks an unused entry
  void* out;                 // [num_rows, width], contiguous; rows of unused entries are zeros
};

struct AddRmsNormParams {
  DType dtype;       // of everything
  int64_t num_rows;  // R
  int64_t width;     // W
  float eps;
  const void* x;  // [num_rows, width], rows x_stride elements apart
  int64_t x_stride;
  const void* y;  // [num_rows, width], rows y_stride elements apart
  int64_t y_stride;
  const void* weight;  // [width]
  void* sum;           // [num_rows, width], contiguous: x + y
  void* normed;        // [num_rows, width], contiguous: its norm
};

namespace cpu {
void rms_norm_rows(const RmsNormParams& p, int64_t begin, int64_t end);
void add_rms_norm_rows(const AddRmsNormParams& p, int64_t begin, int64_t end);
}  // namespace cpu

namespace cuda {
// nullptr, or what the launch failed with.
const char* launch_rms_norm(const RmsNormParams& p, void* stream);
const char* launch_add_rms_norm(const AddRmsNormParams& p, void* stream);
}  // namespace cuda

}  // namespace dlmcache
