// Other operators, torch's and ours, by name.
#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <array>
#include <cstddef>
#include <tuple>
#include <utility>

namespace dlmcache::ops {

// The tensors that an operator returns; `arguments` must be all of its schema, in its order.
template <size_t outputs, typename... Arguments>
std::array<torch::stable::Tensor, outputs> call_overload(const char* name, const char* overload,
                                                         const Arguments&... arguments) {
  std::array<StableIValue, std::max(outputs, sizeof...(Arguments))> stack{torch::stable::detail::from(arguments)...};
  STABLE_TORCH_ERROR_CODE_CHECK(torch_call_dispatcher(name, overload, stack.data(), TORCH_ABI_VERSION));
  return [&]<size_t... i>(std::index_sequence<i...>) {
    return std::array<torch::stable::Tensor, outputs>{torch::stable::detail::to<torch::stable::Tensor>(stack[i])...};
  }(std::make_index_sequence<outputs>{});
}

template <size_t outputs, typename... Arguments>
std::array<torch::stable::Tensor, outputs> call(const char* name, const Arguments&... arguments) {
  return call_overload<outputs>(name, "", arguments...);
}

}  // namespace dlmcache::ops
