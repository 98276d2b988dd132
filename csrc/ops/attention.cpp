#include "dlmcache/attention.h"

#include <torch/csrc/stable/library.h>

#include <cstring>
#include <tuple>
#include <vector>

#include "ops/check.h"
#include "ops/run.h"
#include "ops/run_attention.h"

namespace dlmcache::ops {
namespace {

constexpr const char* kOp = "attention_rows";

template <typename Run>
std::tuple<Tensor, Tensor> attention_rows(const Tensor& q, const Tensor& k_cache, const Tensor& v_cache,
                                          const Tensor& cu_rows, const Tensor& kv_lens, int64_t capacity, double scale,
                                          bool return_lse, Run&& run) {
  check_shape(kOp, "q", q, {-1, -1, -1});
  const int64_t head_size = q.size(2);
  STD_TORCH_CHECK(capacity >= 0, kOp, ": capacity must not be negative, got ", capacity);
  STD_TORCH_CHECK(kv_lens.dim() == 1, kOp, ": kv_lens must have shape [*], got ", shape_string(kv_lens));
  const int64_t num_slots = kv_lens.size(0);
  const int64_t num_positions = count_positions(kOp, num_slots, capacity);
  check_shape(kOp, "k_cache", k_cache, {num_positions, -1, head_size});
  const int64_t num_kv_heads = k_cache.size(1);
  check_shape(kOp, "v_cache", v_cache, {num_positions, num_kv_heads, head_size});
  STD_TORCH_CHECK(num_kv_heads > 0 && q.size(1) % num_kv_heads == 0, kOp, ": q has ", q.size(1),
                  " heads, which must be a multiple of the ", num_kv_heads, " heads of k_cache");
  const DType dtype = check_float(kOp, "q", q);
  check_dtype(kOp, "k_cache", k_cache, q.scalar_type());
  check_dtype(kOp, "v_cache", v_cache, q.scalar_type());
  check_same_device(kOp, "k_cache", k_cache, q, "q");
  check_same_device(kOp, "v_cache", v_cache, q, "q");
  check_contiguous(kOp, "q", q);
  check_contiguous(kOp, "k_cache", k_cache);
  check_contiguous(kOp, "v_cache", v_cache);

  AttentionParams p{};
  p.cu_rows = check_index(kOp, "cu_rows", cu_rows, num_slots + 1, q, "q");
  p.kv_lens = check_index(kOp, "kv_lens", kv_lens, num_slots, q, "q");
  p.dtype = dtype;
  p.num_rows = q.size(0);
  p.num_heads = q.size(1);
  p.num_kv_heads = num_kv_heads;
  p.head_size = head_size;
  p.num_slots = num_slots;
  p.capacity = capacity;
  p.scale = static_cast<float>(scale);
  p.q = q.data_ptr();
  p.k = k_cache.data_ptr();
  p.v = v_cache.data_ptr();
  Tensor out = torch::stable::new_empty(q, {p.num_rows, p.num_heads, head_size});
  Tensor lse = return_lse ? torch::stable::new_empty(q, {p.num_rows, p.num_heads}, ScalarType::Float)
                          : torch::stable::new_empty(q, {0}, ScalarType::Float);
  p.out = out.data_ptr();
  p.lse = return_lse ? static_cast<float*>(lse.data_ptr()) : nullptr;
  run(p);
  return {out, lse};
}

// Scratch of partial results; the tensors own the memory.
struct Partials {
  Tensor values, stats;

  Partials(AttentionParams& p, const Tensor& like, int64_t max_splits)
      : values(torch::stable::new_empty(like, {p.num_rows, p.num_heads, max_splits, p.head_size}, ScalarType::Float)),
        stats(torch::stable::new_empty(like, {p.num_rows, p.num_heads, max_splits, 2}, ScalarType::Float)) {
    p.max_splits = max_splits;
    p.partial_values = static_cast<float*>(values.data_ptr());
    p.partial_stats = static_cast<float*>(stats.data_ptr());
  }
};

}  // namespace

void check_attention_lists(const char* op, const AttentionParams& p) {
  int64_t before = 0;
  for (int64_t s = 0; s <= p.num_slots; ++s) {
    STD_TORCH_CHECK(p.cu_rows[s] >= before && p.cu_rows[s] <= p.num_rows && (s > 0 || p.cu_rows[0] == 0), op,
                    ": cu_rows must ascend from 0 to at most the ", p.num_rows, " rows, got cu_rows[", s,
                    "] = ", p.cu_rows[s]);
    before = p.cu_rows[s];
  }
  for (int64_t s = 0; s < p.num_slots; ++s) {
    STD_TORCH_CHECK(p.kv_lens[s] >= 0 && p.kv_lens[s] <= p.capacity, op, ": kv_lens[", s, "] is ", p.kv_lens[s],
                    ", allowed are 0 to capacity = ", p.capacity);
  }
}

void run_attention_cpu(AttentionParams& p, const Tensor& like) {
  const int64_t group = p.num_heads / p.num_kv_heads;
  int64_t max_splits = 0, num_tiles = 0, scores = 0;
  for (int64_t s = 0; s < p.num_slots; ++s) {
    const int64_t packed = (p.cu_rows[s + 1] - p.cu_rows[s]) * group;
    if (packed == 0) continue;
    max_splits = std::max(max_splits, cpu::attention_splits(p.kv_lens[s]).count);
    num_tiles += cpu::attention_tiles(packed);
    scores += packed * p.kv_lens[s];
  }
  const int64_t row_bytes = p.num_heads * p.head_size * (p.dtype == DType::kFloat32 ? 4 : 2);
  const int64_t used = p.cu_rows[p.num_slots];
  if (const int64_t unused = p.num_rows - used; unused > 0) {
    std::memset(static_cast<char*>(p.out) + used * row_bytes, 0, unused * row_bytes);
    if (p.lse) std::memset(p.lse + used * p.num_heads, 0, unused * p.num_heads * sizeof(float));
  }
  if (num_tiles == 0 || p.num_heads == 0) return;

  // Only few tiles are worth cutting further: more workers then share a tile's keys.
  const int64_t num_threads = torch::stable::get_num_threads();
  const bool cut = num_threads > 1 && max_splits > 1 && num_tiles * p.num_kv_heads < 4 * num_threads;
  std::vector<int64_t> item_start(p.num_slots + 1, 0);
  for (int64_t s = 0; s < p.num_slots; ++s) {
    const int64_t tiles = cpu::attention_tiles((p.cu_rows[s + 1] - p.cu_rows[s]) * group);
    const int64_t splits = cut ? std::max<int64_t>(1, cpu::attention_splits(p.kv_lens[s]).count) : 1;
    item_start[s + 1] = item_start[s] + tiles * splits;
  }
  p.item_start = item_start.data();
  const int64_t items_per_head = item_start.back();
  // Two multiply-adds per score and head element, eight at a time.
  const int64_t cost = scores * (2 * p.head_size / 8 + 4) / items_per_head;
  const auto run = [&] { run_cpu(cpu::attention_rows, p, items_per_head * p.num_kv_heads, cost); };
  if (!cut) return run();
  const Partials partials(p, like, max_splits);
  run();
  run_cpu(cpu::attention_merge_rows, p, used, p.num_heads * max_splits * p.head_size / 4);
}

#ifdef DLMCACHE_WITH_CUDA
void run_attention_cuda(const char* op, AttentionParams& p, const Tensor& like) {
  STD_TORCH_CHECK(p.head_size <= cuda::kMaxAttentionHeadSize, op, ": on CUDA the head size must be at most ",
                  cuda::kMaxAttentionHeadSize, ", got ", p.head_size);
  if (const int64_t max_splits = cuda::attention_max_splits(p); max_splits > 0) {
    // Freed for reuse when this returns, which torch's allocator does in stream order.
    const Partials partials(p, like, max_splits);
    run_cuda(op, cuda::launch_attention, p, like);
  } else {
    run_cuda(op, cuda::launch_attention, p, like);
  }
}
#endif

namespace {

std::tuple<Tensor, Tensor> attention_rows_cpu(const Tensor& q, const Tensor& k_cache, const Tensor& v_cache,
                                              const Tensor& cu_rows, const Tensor& kv_lens, int64_t capacity,
                                              double scale, bool return_lse) {
  return attention_rows(q, k_cache, v_cache, cu_rows, kv_lens, capacity, scale, return_lse, [&](AttentionParams& p) {
    check_attention_lists(kOp, p);
    run_attention_cpu(p, q);
  });
}

STABLE_TORCH_LIBRARY_IMPL(dlmcache, CPU, m) { DLMCACHE_IMPL(m, "attention_rows", attention_rows_cpu); }

#ifdef DLMCACHE_WITH_CUDA
std::tuple<Tensor, Tensor> attention_rows_cuda(const Tensor& q, const Tensor& k_cache, const Tensor& v_cache,
                                               const Tensor& cu_rows, const Tensor& kv_lens, int64_t capacity,
                                               double scale, bool return_lse) {
  return attention_rows(q, k_cache, v_cache, cu_rows, kv_lens, capacity, scale, return_lse,
                        [&](AttentionParams& p) { run_attention_cuda(kOp, p, q); });
}

STABLE_TORCH_LIBRARY_IMPL(dlmcache, CUDA, m) { DLMCACHE_IMPL(m, "attention_rows", attention_rows_cuda); }
#endif

}  // namespace
}  // namespace dlmcache::ops
