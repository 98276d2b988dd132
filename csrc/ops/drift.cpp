#include "dlmcache/drift.h"

#include <torch/csrc/stable/library.h>

#include "ops/check.h"
#include "ops/run.h"

namespace dlmcache::ops {
namespace {

constexpr const char* kOp = "cosine_drift_";

template <typename Run>
Tensor cosine_drift_(const Tensor& signal, const Tensor& reference, const Tensor& row_index, bool update, Run&& run) {
  check_shape(kOp, "signal", signal, {-1, -1});
  const int64_t num_rows = signal.size(0), width = signal.size(1);
  check_shape(kOp, "reference", reference, {-1, width});
  check_shape(kOp, "row_index", row_index, {num_rows});
  const DType dtype = check_float(kOp, "signal", signal);
  check_dtype(kOp, "reference", reference, signal.scalar_type());
  check_same_device(kOp, "reference", reference, signal, "signal");
  const int64_t* index = check_index(kOp, "row_index", row_index, num_rows, signal, "signal");
  check_row_contiguous(kOp, "signal", signal);
  check_contiguous(kOp, "reference", reference);
  check_index_range(kOp, "row_index", row_index, reference.size(0));

  Tensor drift = torch::stable::new_empty(signal, {num_rows}, ScalarType::Float);
  CosineDriftParams p{};
  p.dtype = dtype;
  p.num_rows = num_rows;
  p.width = width;
  p.update = update;
  p.signal = signal.data_ptr();
  p.signal_stride = signal.stride(0);
  p.reference = reference.data_ptr();
  p.row_index = index;
  p.drift = static_cast<float*>(drift.data_ptr());
  run(p);
  return drift;
}

Tensor cosine_drift_cpu(const Tensor& signal, Tensor reference, const Tensor& row_index, bool update) {
  return cosine_drift_(signal, reference, row_index, update,
                       [](const CosineDriftParams& p) { run_cpu(cpu::cosine_drift_rows, p, p.num_rows, 6 * p.width); });
}

STABLE_TORCH_LIBRARY_IMPL(dlmcache, CPU, m) { DLMCACHE_IMPL(m, "cosine_drift_", cosine_drift_cpu); }

#ifdef DLMCACHE_WITH_CUDA
Tensor cosine_drift_cuda(const Tensor& signal, Tensor reference, const Tensor& row_index, bool update) {
  return cosine_drift_(signal, reference, row_index, update,
                       [&](const CosineDriftParams& p) { run_cuda(kOp, cuda::launch_cosine_drift, p, signal); });
}

STABLE_TORCH_LIBRARY_IMPL(dlmcache, CUDA, m) { DLMCACHE_IMPL(m, "cosine_drift_", cosine_drift_cuda); }
#endif

}  // namespace
}  // namespace dlmcache::ops
