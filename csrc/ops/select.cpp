#include "dlmcache/select.h"

#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <tuple>

#include "ops/check.h"
#include "ops/check_row_list.h"
#include "ops/run.h"

namespace dlmcache::ops {
namespace {

constexpr const char* kOp = "select_rows";

template <typename Run>
std::tuple<Tensor, Tensor, Tensor> select_rows(const Tensor& score, const Tensor& row_index, const Tensor& cu_rows,
                                               const Tensor& k, int64_t max_rows, bool largest, Run&& run) {
  check_shape(kOp, "score", score, {-1});
  STD_TORCH_CHECK(max_rows >= 0, kOp, ": max_rows must not be negative, got ", max_rows);
  check_dtype(kOp, "score", score, ScalarType::Float);
  check_contiguous(kOp, "score", score);
  SelectRowsParams p{};
  p.num_entries = score.size(0);
  p.row_index = check_index(kOp, "row_index", row_index, p.num_entries, score, "score");
  p.cu_rows = check_index(kOp, "cu_rows", cu_rows, -1, score, "score");
  p.num_slots = check_cu_rows(kOp, cu_rows, p.num_entries);
  p.k = check_index(kOp, "k", k, p.num_slots, score, "score");
  p.max_rows = max_rows;
  p.largest = largest;
  p.score = static_cast<const float*>(score.data_ptr());

  Tensor selected = torch::stable::new_empty(row_index, {max_rows});
  Tensor places = torch::stable::new_empty(row_index, {max_rows});
  Tensor cu_selected = torch::stable::new_empty(row_index, {p.num_slots + 1});
  p.selected = static_cast<int64_t*>(selected.data_ptr());
  p.places = static_cast<int64_t*>(places.data_ptr());
  p.cu_selected = static_cast<int64_t*>(cu_selected.data_ptr());
  run(p);
  return {selected, places, cu_selected};
}

std::tuple<Tensor, Tensor, Tensor> select_rows_cpu(const Tensor& score, const Tensor& row_index, const Tensor& cu_rows,
                                                   const Tensor& k, int64_t max_rows, bool largest) {
  return select_rows(score, row_index, cu_rows, k, max_rows, largest, [](const SelectRowsParams& p) {
    p.cu_selected[0] = 0;
    for (int64_t slot = 0; slot < p.num_slots; ++slot) {
      p.cu_selected[slot + 1] = p.cu_selected[slot] + num_selected(p, slot);
    }
    const int64_t total = p.cu_selected[p.num_slots];
    STD_TORCH_CHECK(total <= p.max_rows, kOp, ": ", total, " rows do not fit into max_rows = ", p.max_rows);
    // Four passes for the threshold and one for the list.
    run_cpu(cpu::select_rows, p, p.num_slots, 5 * p.num_entries / std::max<int64_t>(1, p.num_slots));
    std::fill(p.selected + total, p.selected + p.max_rows, int64_t{-1});
    std::fill(p.places + total, p.places + p.max_rows, int64_t{-1});
  });
}

STABLE_TORCH_LIBRARY_IMPL(dlmcache, CPU, m) { DLMCACHE_IMPL(m, "select_rows", select_rows_cpu); }

#ifdef DLMCACHE_WITH_CUDA
std::tuple<Tensor, Tensor, Tensor> select_rows_cuda(const Tensor& score, const Tensor& row_index, const Tensor& cu_rows,
                                                    const Tensor& k, int64_t max_rows, bool largest) {
  return select_rows(score, row_index, cu_rows, k, max_rows, largest,
                     [&](const SelectRowsParams& p) { run_cuda(kOp, cuda::launch_select_rows, p, score); });
}

STABLE_TORCH_LIBRARY_IMPL(dlmcache, CUDA, m) { DLMCACHE_IMPL(m, "select_rows", select_rows_cuda); }
#endif

}  // namespace
}  // namespace dlmcache::ops
