// Matrix products by torch's library, into memory that is there.
#pragma once

#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/tensor.h>

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

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

// Whether a matrix is in the order in which oneDNN reads it, by mkldnn::_reorder_linear_weight; on CPUs alone.
inline bool is_packed(const torch::stable::Tensor& weight) {
  int32_t layout;
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_layout(weight.get(), &layout));
  return layout == aoti_torch_layout__mkldnn();
}

// x @ weight^T + bias
inline torch::stable::Tensor linear(const torch::stable::Tensor& x, const torch::stable::Tensor& weight,
                                    const std::optional<torch::stable::Tensor>& bias) {
  if (!is_packed(weight)) return call<1>("aten::linear", x, weight, bias)[0];
  return call<1>("mkldnn::_linear_pointwise", x, weight, bias, std::string("none"), std::vector<int64_t>(),
                 std::optional<std::string>(""))[0];
}

// The same in `out`: in its memory where it has some, but packed matrices make a new tensor.
inline void multiply(const torch::stable::Tensor& x, const torch::stable::Tensor& weight,
                     const std::optional<torch::stable::Tensor>& bias, torch::stable::Tensor& out) {
  if (out.defined() && !is_packed(weight)) return linear_out(x, weight, bias, out);
  out = torch::stable::Tensor();  // not held while the new one is made
  out = linear(x, weight, bias);
}

}  // namespace dlmcache::ops
