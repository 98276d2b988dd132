#include "dlmcache/row_list.h"

#include <torch/csrc/stable/library.h>

#include <optional>
#include <tuple>

#include "ops/check.h"
#include "ops/check_row_list.h"
#include "ops/run.h"

namespace dlmcache::ops {
namespace {

constexpr const char* kBuild = "build_rows";
constexpr const char* kFind = "find_rows";

// On a CPU: begin and end must be positions of the canvas (end may stand behind its last one).
void check_positions(const char* name, const Tensor& tensor, int64_t capacity) {
  if (!tensor.is_cpu()) return;
  const int64_t* position = static_cast<const int64_t*>(tensor.data_ptr());
  for (int64_t i = 0; i < tensor.numel(); ++i) {
    STD_TORCH_CHECK(position[i] >= 0 && position[i] <= capacity, kBuild, ": ", name, "[", i, "] is ", position[i],
                    ", allowed are 0 to ", capacity, " (capacity)");
  }
}

template <typename Run>
std::tuple<Tensor, Tensor> build_rows(const Tensor& begin, const Tensor& end, int64_t capacity, int64_t max_rows,
                                      const std::optional<Tensor>& flags, const std::optional<Tensor>& limit,
                                      Run&& run) {
  check_shape(kBuild, "begin", begin, {-1});
  const int64_t num_slots = begin.size(0);
  STD_TORCH_CHECK(capacity > 0, kBuild, ": capacity must be positive, got ", capacity);
  STD_TORCH_CHECK(max_rows >= 0, kBuild, ": max_rows must not be negative, got ", max_rows);
  const int64_t num_positions = count_positions(kBuild, num_slots, capacity);
  BuildRowsParams p{};
  p.begin = check_index(kBuild, "begin", begin, num_slots, begin, "begin");
  p.end = check_index(kBuild, "end", end, num_slots, begin, "begin");
  if (flags) {
    check_shape(kBuild, "flags", *flags, {num_positions});
    check_dtype(kBuild, "flags", *flags, ScalarType::Bool);
    check_same_device(kBuild, "flags", *flags, begin, "begin");
    check_contiguous(kBuild, "flags", *flags);
    p.flags = static_cast<const bool*>(flags->data_ptr());
  }
  if (limit) p.limit = check_index(kBuild, "limit", *limit, num_slots, begin, "begin");
  check_positions("begin", begin, capacity);
  check_positions("end", end, capacity);

  Tensor row_index = torch::stable::new_empty(begin, {max_rows});
  Tensor cu_rows = torch::stable::new_empty(begin, {num_slots + 1});
  Tensor counts = torch::stable::new_empty(begin, {num_slots});
  p.num_slots = num_slots;
  p.capacity = capacity;
  p.max_rows = max_rows;
  p.counts = static_cast<int64_t*>(counts.data_ptr());
  p.row_index = static_cast<int64_t*>(row_index.data_ptr());
  p.cu_rows = static_cast<int64_t*>(cu_rows.data_ptr());
  run(p);
  return {row_index, cu_rows};
}

std::tuple<Tensor, Tensor> build_rows_cpu(const Tensor& begin, const Tensor& end, int64_t capacity, int64_t max_rows,
                                          std::optional<Tensor> flags, std::optional<Tensor> limit) {
  return build_rows(begin, end, capacity, max_rows, flags, limit, [](const BuildRowsParams& p) {
    run_cpu(cpu::count_rows, p, p.num_slots, p.flags ? p.capacity / 8 : 1);
    p.cu_rows[0] = 0;
    for (int64_t slot = 0; slot < p.num_slots; ++slot) p.cu_rows[slot + 1] = p.cu_rows[slot] + p.counts[slot];
    const int64_t total = p.cu_rows[p.num_slots];
    STD_TORCH_CHECK(total <= p.max_rows, kBuild, ": ", total, " rows do not fit into max_rows = ", p.max_rows);
    run_cpu(cpu::build_rows, p, p.num_slots, p.capacity);
    std::fill(p.row_index + total, p.row_index + p.max_rows, int64_t{-1});
  });
}

template <typename Run>
Tensor find_rows(const Tensor& row_index, const Tensor& cu_rows, const Tensor& query, int64_t capacity, Run&& run) {
  FindRowsParams p{};
  STD_TORCH_CHECK(capacity > 0, kFind, ": capacity must be positive, got ", capacity);
  p.row_index = check_index(kFind, "row_index", row_index, -1, row_index, "row_index");
  p.cu_rows = check_index(kFind, "cu_rows", cu_rows, -1, row_index, "row_index");
  p.query = check_index(kFind, "query", query, -1, row_index, "row_index");
  const int64_t num_slots = check_cu_rows(kFind, cu_rows, row_index.size(0));
  check_index_range(kFind, "query", query, count_positions(kFind, num_slots, capacity));

  Tensor place = torch::stable::new_empty(query, {query.size(0)});
  p.num_queries = query.size(0);
  p.capacity = capacity;
  p.place = static_cast<int64_t*>(place.data_ptr());
  run(p);
  return place;
}

Tensor find_rows_cpu(const Tensor& row_index, const Tensor& cu_rows, const Tensor& query, int64_t capacity) {
  constexpr int64_t kCostOfSearch = 16;
  return find_rows(row_index, cu_rows, query, capacity,
                   [](const FindRowsParams& p) { run_cpu(cpu::find_rows, p, p.num_queries, kCostOfSearch); });
}

STABLE_TORCH_LIBRARY_IMPL(dlmcache, CPU, m) {
  DLMCACHE_IMPL(m, "build_rows", build_rows_cpu);
  DLMCACHE_IMPL(m, "find_rows", find_rows_cpu);
}

#ifdef DLMCACHE_WITH_CUDA
std::tuple<Tensor, Tensor> build_rows_cuda(const Tensor& begin, const Tensor& end, int64_t capacity, int64_t max_rows,
                                           std::optional<Tensor> flags, std::optional<Tensor> limit) {
  return build_rows(begin, end, capacity, max_rows, flags, limit,
                    [&](const BuildRowsParams& p) { run_cuda(kBuild, cuda::launch_build_rows, p, begin); });
}

Tensor find_rows_cuda(const Tensor& row_index, const Tensor& cu_rows, const Tensor& query, int64_t capacity) {
  return find_rows(row_index, cu_rows, query, capacity,
                   [&](const FindRowsParams& p) { run_cuda(kFind, cuda::launch_find_rows, p, row_index); });
}

STABLE_TORCH_LIBRARY_IMPL(dlmcache, CUDA, m) {
  DLMCACHE_IMPL(m, "build_rows", build_rows_cuda);
  DLMCACHE_IMPL(m, "find_rows", find_rows_cuda);
}
#endif

}  // namespace
}  // namespace dlmcache::ops
