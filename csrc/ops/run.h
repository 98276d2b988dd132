// Registering an operator and running its torch-free halves: CPU loops over torch's threads, launchers on the current
// stream.
#pragma once

#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "ops/nvtx.h"

namespace dlmcache::ops {

// A string literal as a template argument.
template <size_t size>
struct Literal {
  char text[size];
  constexpr Literal(const char (&literal)[size]) { std::copy_n(literal, size, text); }
};

// A boxed operator inside a range of its name: its checks, its GEMMs and all of its launches.
template <Literal name, void (*boxed)(StableIValue*, uint64_t, uint64_t)>
void in_range(StableIValue* stack, uint64_t num_arguments, uint64_t num_outputs) {
  const NvtxRange range(name.text);
  boxed(stack, num_arguments, num_outputs);
}

// Inside STABLE_TORCH_LIBRARY_IMPL: `function` implements the operator dlmcache::<op>.
#define DLMCACHE_IMPL(library, op, function) \
  library.impl(op, &dlmcache::ops::in_range<"dlmcache::" op, TORCH_BOX(&function)>)

// Work worth a thread: below about this many scalar operations waking another thread costs more than it saves.
inline constexpr int64_t kOperationsPerTask = 32768;

// Calls rows(params, begin, end) on torch's threads; `cost` is the number of scalar operations of one row.
template <typename Params>
void run_cpu(void (*rows)(const Params&, int64_t, int64_t), const Params& params, int64_t num_rows, int64_t cost) {
  if (num_rows == 0) return;
  const int64_t grain = std::max<int64_t>(1, kOperationsPerTask / std::max<int64_t>(1, cost));
  if (num_rows <= grain) {
    rows(params, 0, num_rows);
    return;
  }
  torch::stable::parallel_for(0, num_rows, grain, [&](int64_t begin, int64_t end) { rows(params, begin, end); });
}

#ifdef DLMCACHE_WITH_CUDA
// The current stream of the device, as a cudaStream_t.
void* current_stream(int32_t device_index);

// Calls launch(params, stream) on the device and the current stream of `like`; throws what it reports.
template <typename Params>
void run_cuda(const char* op, const char* (*launch)(const Params&, void*), const Params& params,
              const torch::stable::Tensor& like) {
  const torch::stable::accelerator::DeviceGuard guard(like.get_device_index());
  const char* error = launch(params, current_stream(like.get_device_index()));
  STD_TORCH_CHECK(error == nullptr, op, ": CUDA launch failed: ", error ? error : "");
}
#endif

}  // namespace dlmcache::ops
