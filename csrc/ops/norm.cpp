#include "dlmcache/norm.h"

#include <torch/csrc/stable/library.h>

#include <optional>
#include <tuple>

#include "ops/check.h"
#include "ops/run.h"

namespace dlmcache::ops {
namespace {

constexpr const char* kOp = "rms_norm";

template <typename Run>
Tensor rms_norm(const Tensor& x, const Tensor& weight, double eps, const std::optional<Tensor>& row_index, Run&& run) {
  check_shape(kOp, "x", x, {-1, -1});
  const int64_t width = x.size(1);
  check_shape(kOp, "weight", weight, {width});
  const DType dtype = check_float(kOp, "x", x);
  check_dtype(kOp, "weight", weight, x.scalar_type());
  check_same_device(kOp, "weight", weight, x, "x");
  check_row_contiguous(kOp, "x", x);
  check_contiguous(kOp, "weight", weight);
  const int64_t* index = row_index ? check_index(kOp, "row_index", *row_index, -1, x, "x") : nullptr;
  if (row_index) check_index_range(kOp, "row_index", *row_index, x.size(0));
  const int64_t num_rows = row_index ? row_index->size(0) : x.size(0);

  Tensor out = torch::stable::new_empty(x, {num_rows, width});
  RmsNormParams p{};
  p.dtype = dtype;
  p.num_rows = num_rows;
  p.width = width;
  p.eps = static_cast<float>(eps);
  p.x = x.data_ptr();
  p.x_stride = x.stride(0);
  p.weight = weight.data_ptr();
  p.row_index = index;
  p.out = out.data_ptr();
  run(p);
  return out;
}

template <typename Run>
std::tuple<Tensor, Tensor> add_rms_norm(const Tensor& x, const Tensor& y, const Tensor& weight, double eps, Run&& run) {
  constexpr const char* kAddOp = "add_rms_norm";
  check_shape(kAddOp, "x", x, {-1, -1});
  const int64_t num_rows = x.size(0), width = x.size(1);
  check_shape(kAddOp, "y", y, {num_rows, width});
  check_shape(kAddOp, "weight", weight, {width});
  AddRmsNormParams p{};
  p.dtype = check_float(kAddOp, "x", x);
  check_dtype(kAddOp, "y", y, x.scalar_type());
  check_dtype(kAddOp, "weight", weight, x.scalar_type());
  check_same_device(kAddOp, "y", y, x, "x");
  check_same_device(kAddOp, "weight", weight, x, "x");
  check_row_contiguous(kAddOp, "x", x);
  check_row_contiguous(kAddOp, "y", y);
  check_contiguous(kAddOp, "weight", weight);

  Tensor sum = torch::stable::new_empty(x, {num_rows, width});
  Tensor normed = torch::stable::new_empty(x, {num_rows, width});
  p.num_rows = num_rows;
  p.width = width;
  p.eps = static_cast<float>(eps);
  p.x = x.data_ptr();
  p.x_stride = x.stride(0);
  p.y = y.data_ptr();
  p.y_stride = y.stride(0);
  p.weight = weight.data_ptr();
  p.sum = sum.data_ptr();
  p.normed = normed.data_ptr();
  run(p);
  return {sum, normed};
}

Tensor rms_norm_cpu(const Tensor& x, const Tensor& weight, double eps, std::optional<Tensor> row_index) {
  return rms_norm(x, weight, eps, row_index,
                  [](const RmsNormParams& p) { run_cpu(cpu::rms_norm_rows, p, p.num_rows, 4 * p.width); });
}

std::tuple<Tensor, Tensor> add_rms_norm_cpu(const Tensor& x, const Tensor& y, const Tensor& weight, double eps) {
  return add_rms_norm(x, y, weight, eps,
                      [](const AddRmsNormParams& p) { run_cpu(cpu::add_rms_norm_rows, p, p.num_rows, 6 * p.width); });
}

STABLE_TORCH_LIBRARY_IMPL(dlmcache, CPU, m) {
  DLMCACHE_IMPL(m, "rms_norm", rms_norm_cpu);
  DLMCACHE_IMPL(m, "add_rms_norm", add_rms_norm_cpu);
}

#ifdef DLMCACHE_WITH_CUDA
Tensor rms_norm_cuda(const Tensor& x, const Tensor& weight, double eps, std::optional<Tensor> row_index) {
  return rms_norm(x, weight, eps, row_index,
                  [&](const RmsNormParams& p) { run_cuda(kOp, cuda::launch_rms_norm, p, x); });
}

std::tuple<Tensor, Tensor> add_rms_norm_cuda(const Tensor& x, const Tensor& y, const Tensor& weight, double eps) {
  return add_rms_norm(x, y, weight, eps,
                      [&](const AddRmsNormParams& p) { run_cuda("add_rms_norm", cuda::launch_add_rms_norm, p, x); });
}

STABLE_TORCH_LIBRARY_IMPL(dlmcache, CUDA, m) {
  DLMCACHE_IMPL(m, "rms_norm", rms_norm_cuda);
  DLMCACHE_IMPL(m, "add_rms_norm", add_rms_norm_cuda);
}
#endif

}  // namespace
}  // namespace dlmcache::ops
