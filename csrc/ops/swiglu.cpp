#include "dlmcache/swiglu.h"

#include <torch/csrc/stable/library.h>

#include "ops/check.h"
#include "ops/run.h"

namespace dlmcache::ops {
namespace {

constexpr const char* kOp = "swiglu";

template <typename Run>
Tensor swiglu(const Tensor& gate_up, Run&& run) {
  check_shape(kOp, "gate_up", gate_up, {-1, -1});
  STD_TORCH_CHECK(gate_up.size(1) % 2 == 0, kOp, ": gate_up must have an even width, gate and up, got shape ",
                  shape_string(gate_up));
  const DType dtype = check_float(kOp, "gate_up", gate_up);
  check_row_contiguous(kOp, "gate_up", gate_up);
  const int64_t num_rows = gate_up.size(0), width = gate_up.size(1) / 2;

  Tensor out = torch::stable::new_empty(gate_up, {num_rows, width});
  SwigluParams p{};
  p.dtype = dtype;
  p.num_rows = num_rows;
  p.width = width;
  p.gate_up = gate_up.data_ptr();
  p.gate_up_stride = gate_up.stride(0);
  p.out = out.data_ptr();
  run(p);
  return out;
}

Tensor swiglu_cpu(const Tensor& gate_up) {
  return swiglu(gate_up, [](const SwigluParams& p) { run_cpu(cpu::swiglu_rows, p, p.num_rows, 8 * p.width); });
}

STABLE_TORCH_LIBRARY_IMPL(dlmcache, CPU, m) { DLMCACHE_IMPL(m, "swiglu", swiglu_cpu); }

#ifdef DLMCACHE_WITH_CUDA
Tensor swiglu_cuda(const Tensor& gate_up) {
  return swiglu(gate_up, [&](const SwigluParams& p) { run_cuda(kOp, cuda::launch_swiglu, p, gate_up); });
}

STABLE_TORCH_LIBRARY_IMPL(dlmcache, CUDA, m) { DLMCACHE_IMPL(m, "swiglu", swiglu_cuda); }
#endif

}  // namespace
}  // namespace dlmcache::ops
