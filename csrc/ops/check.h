// Checks of operator arguments. Each names the operator and the argument, says what is required and what was given.
//
// Order within an operator: dimensions and shapes, dtype, device, contiguity; then allocate, fill Params, run.
#pragma once

#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/Exception.h>

#include <cstdint>
#include <initializer_list>
#include <string>

#include "dlmcache/dtype.h"

namespace dlmcache::ops {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

inline std::string shape_string(const Tensor& tensor) {
  std::string text = "[";
  for (int64_t d = 0; d < tensor.dim(); ++d) text += (d ? ", " : "") + std::to_string(tensor.size(d));
  return text + "]";
}

// The shape must equal `shape`, where -1 stands for any size.
inline void check_shape(const char* op, const char* name, const Tensor& tensor, std::initializer_list<int64_t> shape) {
  bool equal = tensor.dim() == static_cast<int64_t>(shape.size());
  int64_t d = 0;
  for (const int64_t size : shape) {
    if (!equal) break;
    equal = size < 0 || tensor.size(d) == size;
    ++d;
  }
  if (equal) return;
  std::string expected = "[";
  d = 0;
  for (const int64_t size : shape) expected += (d++ ? ", " : "") + (size < 0 ? "*" : std::to_string(size));
  STD_TORCH_CHECK(false, op, ": ", name, " must have shape ", expected, "], got ", shape_string(tensor));
}

inline void check_dtype(const char* op, const char* name, const Tensor& tensor, ScalarType dtype) {
  STD_TORCH_CHECK(tensor.scalar_type() == dtype, op, ": ", name, " must be ", torch::headeronly::toString(dtype),
                  ", got ", torch::headeronly::toString(tensor.scalar_type()));
}

// float32, float16 or bfloat16.
inline DType check_float(const char* op, const char* name, const Tensor& tensor) {
  switch (tensor.scalar_type()) {
    case ScalarType::Float:
      return DType::kFloat32;
    case ScalarType::Half:
      return DType::kFloat16;
    case ScalarType::BFloat16:
      return DType::kBFloat16;
    default:
      STD_TORCH_CHECK(false, op, ": ", name, " must be float32, float16 or bfloat16, got ",
                      torch::headeronly::toString(tensor.scalar_type()));
  }
  return DType::kFloat32;
}

inline void check_same_device(const char* op, const char* name, const Tensor& tensor, const Tensor& like,
                              const char* like_name) {
  STD_TORCH_CHECK(tensor.device() == like.device(), op, ": ", name, " must be on the device of ", like_name);
}

inline void check_contiguous(const char* op, const char* name, const Tensor& tensor) {
  STD_TORCH_CHECK(tensor.is_contiguous(), op, ": ", name, " must be contiguous");
}

// Rows may lie apart, the elements of a row may not.
inline void check_row_contiguous(const char* op, const char* name, const Tensor& tensor) {
  const int64_t last = tensor.dim() - 1;
  STD_TORCH_CHECK(last >= 0 && (tensor.size(last) <= 1 || tensor.stride(last) == 1), op, ": ", name,
                  " must be contiguous in its last dimension");
}

// Positions of all slots: shapes are compared with their number, so that it must not wrap around.
inline int64_t count_positions(const char* op, int64_t num_slots, int64_t capacity) {
  int64_t count = 0;
  STD_TORCH_CHECK(!__builtin_mul_overflow(num_slots, capacity, &count), op, ": ", num_slots, " slots of capacity ",
                  capacity, " have more positions than int64 counts");
  return count;
}

// A contiguous int64 vector of `size` entries (-1: any) on the device of `like`.
inline const int64_t* check_index(const char* op, const char* name, const Tensor& tensor, int64_t size,
                                  const Tensor& like, const char* like_name) {
  check_shape(op, name, tensor, {size});
  check_dtype(op, name, tensor, ScalarType::Long);
  check_same_device(op, name, tensor, like, like_name);
  check_contiguous(op, name, tensor);
  return static_cast<const int64_t*>(tensor.data_ptr());
}

// On a CPU every entry must lie in [-1, upper). On CUDA that would need a read-back, so kernels rely on the caller.
inline void check_index_range(const char* op, const char* name, const Tensor& tensor, int64_t upper) {
  if (!tensor.is_cpu()) return;
  const int64_t* index = static_cast<const int64_t*>(tensor.data_ptr());
  const int64_t count = tensor.numel();  // a call into torch, too slow for the loop
  for (int64_t i = 0; i < count; ++i) {
    STD_TORCH_CHECK(index[i] >= -1 && index[i] < upper, op, ": ", name, "[", i, "] is ", index[i],
                    ", allowed are -1 (unused) to ", upper - 1);
  }
}

}  // namespace dlmcache::ops
