#include "dlmcache/random.h"

#include <torch/csrc/stable/library.h>

#include "ops/check.h"
#include "ops/run.h"

namespace dlmcache::ops {
namespace {

constexpr const char* kOp = "uniform_rows";

// Scalar operations of one number: ten rounds and two divisions.
constexpr int64_t kCost = 128;

template <typename Run>
Tensor uniform_rows(const Tensor& row_index, int64_t capacity, const Tensor& seeds, const Tensor& ticks, int64_t stream,
                    Run&& run) {
  UniformRowsParams p{};
  p.row_index = check_index(kOp, "row_index", row_index, -1, row_index, "row_index");
  p.seeds = check_index(kOp, "seeds", seeds, -1, row_index, "row_index");
  p.ticks = check_index(kOp, "ticks", ticks, seeds.size(0), row_index, "row_index");
  STD_TORCH_CHECK(capacity >= 1, kOp, ": capacity must be at least 1, got ", capacity);
  // Stream 0 is the Gumbel noise of head_reduce: sharing it would tie the order of positions to the tokens drawn.
  STD_TORCH_CHECK(stream >= 1 && stream <= 0xffffffffLL, kOp, ": stream must be from 1 to 4294967295, got ", stream);
  check_index_range(kOp, "row_index", row_index, seeds.size(0) * capacity);

  Tensor out = torch::stable::new_empty(row_index, {row_index.size(0)}, ScalarType::Float);
  p.num_rows = row_index.size(0);
  p.capacity = capacity;
  p.stream = static_cast<uint32_t>(stream);
  p.out = static_cast<float*>(out.data_ptr());
  run(p);
  return out;
}

Tensor uniform_rows_cpu(const Tensor& row_index, int64_t capacity, const Tensor& seeds, const Tensor& ticks,
                        int64_t stream) {
  return uniform_rows(row_index, capacity, seeds, ticks, stream,
                      [](const UniformRowsParams& p) { run_cpu(cpu::uniform_rows, p, p.num_rows, kCost); });
}

STABLE_TORCH_LIBRARY_IMPL(dlmcache, CPU, m) { DLMCACHE_IMPL(m, "uniform_rows", uniform_rows_cpu); }

#ifdef DLMCACHE_WITH_CUDA
Tensor uniform_rows_cuda(const Tensor& row_index, int64_t capacity, const Tensor& seeds, const Tensor& ticks,
                         int64_t stream) {
  return uniform_rows(row_index, capacity, seeds, ticks, stream,
                      [&](const UniformRowsParams& p) { run_cuda(kOp, cuda::launch_uniform_rows, p, row_index); });
}

STABLE_TORCH_LIBRARY_IMPL(dlmcache, CUDA, m) { DLMCACHE_IMPL(m, "uniform_rows", uniform_rows_cuda); }
#endif

}  // namespace
}  // namespace dlmcache::ops
