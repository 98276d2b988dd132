// Matrix products by torch's library, into memory that is there.
#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/tensor.h>

#include <array>
#include <optional>

namespace dlmcache::ops {

using torch::stable::Tensor;
using torch::stable::detail::from;

namespace detail {
// Calls an overload that writes its last argument. Its result is that argument again; the handle wants an owner.
template <size_t size>
void call_out(const char* name, std::array<StableIValue, size> stack) {
  STABLE_TORCH_ERROR_CODE_CHECK(torch_call_dispatcher(name, "out", stack.data(), TORCH_ABI_VERSION));
  (void)torch::stable::detail::to<Tensor>(stack[0]);
}
}  // namespace detail

// out = a @ b
inline void matmul_out(const Tensor& a, const Tensor& b, const Tensor& out) {
  detail::call_out<3>("aten::mm", {from(a), from(b), from(out)});
}

// out = x @ weight^T + bias
inline void linear_out(const Tensor& x, const Tensor& weight, const std::optional<Tensor>& bias, const Tensor& out) {
  detail::call_out<4>("aten::linear", {from(x), from(weight), from(bias), from(out)});
}

}  // namespace dlmcache::ops
