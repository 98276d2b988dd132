// Matrix products by torch's library, into memory that is there.
#pragma once

#include <torch/csrc/stable/tensor.h>

#include <optional>

#include "ops/call.h"

namespace dlmcache::ops {

// out = a @ b
inline void matmul_out(const torch::stable::Tensor& a, const torch::stable::Tensor& b,
                       const torch::stable::Tensor& out) {
  call_overload<1>("aten::mm", "out", a, b, out);
}

// out = x @ weight^T + bias
inline void linear_out(const torch::stable::Tensor& x, const torch::stable::Tensor& weight,
                       const std::optional<torch::stable::Tensor>& bias, const torch::stable::Tensor& out) {
  call_overload<1>("aten::linear", "out", x, weight, bias, out);
}

}  // namespace dlmcache::ops
