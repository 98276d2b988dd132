#include "dlmcache/rows.h"

#include <torch/csrc/stable/library.h>

#include <vector>

#include "ops/check.h"
#include "ops/run.h"

namespace dlmcache::ops {
namespace {

int64_t row_elements(const Tensor& tensor) {
  int64_t elements = 1;
  for (int64_t d = 1; d < tensor.dim(); ++d) elements *= tensor.size(d);
  return elements;
}

// A copy moves about four bytes in the time of one scalar operation; finding the row costs a few.
int64_t copy_cost(const RowsParams& p) { return 8 + p.row_bytes / 4; }

template <typename Run>
Tensor gather_rows(const Tensor& src, const Tensor& row_index, Run&& run) {
  constexpr const char* kOp = "gather_rows";
  STD_TORCH_CHECK(src.dim() >= 1, kOp, ": src must have at least one dimension, got shape []");
  const int64_t* index = check_index(kOp, "row_index", row_index, -1, src, "src");
  check_contiguous(kOp, "src", src);
  check_index_range(kOp, "row_index", row_index, src.size(0));

  std::vector<int64_t> shape(src.sizes().begin(), src.sizes().end());
  shape[0] = row_index.size(0);
  Tensor out = torch::stable::new_empty(src, shape);
  RowsParams p{};
  p.num_rows = row_index.size(0);
  p.row_bytes = row_elements(src) * static_cast<int64_t>(src.element_size());
  p.source = src.data_ptr();
  p.row_index = index;
  p.destination = out.data_ptr();
  if (p.row_bytes > 0) run(p);
  return out;
}

template <typename Run>
void scatter_rows_(const Tensor& dst, const Tensor& rows, const Tensor& row_index, Run&& run) {
  constexpr const char* kOp = "scatter_rows_";
  STD_TORCH_CHECK(dst.dim() >= 1, kOp, ": dst must have at least one dimension, got shape []");
  bool same_rows = rows.dim() == dst.dim();
  for (int64_t d = 1; same_rows && d < dst.dim(); ++d) same_rows = rows.size(d) == dst.size(d);
  STD_TORCH_CHECK(same_rows, kOp, ": rows must have the shape of dst in all dimensions but the first; rows have shape ",
                  shape_string(rows), ", dst has shape ", shape_string(dst));
  check_shape(kOp, "row_index", row_index, {rows.size(0)});
  check_dtype(kOp, "rows", rows, dst.scalar_type());
  check_same_device(kOp, "rows", rows, dst, "dst");
  const int64_t* index = check_index(kOp, "row_index", row_index, rows.size(0), dst, "dst");
  check_contiguous(kOp, "dst", dst);
  check_contiguous(kOp, "rows", rows);
  check_index_range(kOp, "row_index", row_index, dst.size(0));

  RowsParams p{};
  p.num_rows = rows.size(0);
  p.row_bytes = row_elements(dst) * static_cast<int64_t>(dst.element_size());
  p.source = rows.data_ptr();
  p.row_index = index;
  p.destination = dst.data_ptr();
  if (p.row_bytes > 0) run(p);
}

Tensor gather_rows_cpu(const Tensor& src, const Tensor& row_index) {
  return gather_rows(src, row_index,
                     [](const RowsParams& p) { run_cpu(cpu::gather_rows, p, p.num_rows, copy_cost(p)); });
}

void scatter_rows_cpu(Tensor dst, const Tensor& rows, const Tensor& row_index) {
  scatter_rows_(dst, rows, row_index,
                [](const RowsParams& p) { run_cpu(cpu::scatter_rows, p, p.num_rows, copy_cost(p)); });
}

STABLE_TORCH_LIBRARY_IMPL(dlmcache, CPU, m) {
  DLMCACHE_IMPL(m, "gather_rows", gather_rows_cpu);
  DLMCACHE_IMPL(m, "scatter_rows_", scatter_rows_cpu);
}

#ifdef DLMCACHE_WITH_CUDA
Tensor gather_rows_cuda(const Tensor& src, const Tensor& row_index) {
  return gather_rows(src, row_index,
                     [&](const RowsParams& p) { run_cuda("gather_rows", cuda::launch_gather_rows, p, src); });
}

void scatter_rows_cuda(Tensor dst, const Tensor& rows, const Tensor& row_index) {
  scatter_rows_(dst, rows, row_index,
                [&](const RowsParams& p) { run_cuda("scatter_rows_", cuda::launch_scatter_rows, p, dst); });
}

STABLE_TORCH_LIBRARY_IMPL(dlmcache, CUDA, m) {
  DLMCACHE_IMPL(m, "gather_rows", gather_rows_cuda);
  DLMCACHE_IMPL(m, "scatter_rows_", scatter_rows_cuda);
}
#endif

}  // namespace
}  // namespace dlmcache::ops
