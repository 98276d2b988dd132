#include "dlmcache/attention_mass.h"

#include <torch/csrc/stable/library.h>

#include <optional>
#include <vector>

#include "ops/check.h"
#include "ops/check_row_list.h"
#include "ops/run.h"

namespace dlmcache::ops {
namespace {

constexpr const char* kMass = "attention_mass";
constexpr const char* kRollout = "rollout_step";

// What both operators have in common; on a CPU also that every offset and length is in range.
AttentionMassParams check_attention(const char* op, const Tensor& q, const Tensor& k_cache, const Tensor& cu_rows,
                                    const Tensor& kv_lens, int64_t capacity, double scale,
                                    const std::optional<Tensor>& lse) {
  check_shape(op, "q", q, {-1, -1, -1});
  STD_TORCH_CHECK(capacity >= 0, op, ": capacity must not be negative, got ", capacity);
  STD_TORCH_CHECK(kv_lens.dim() == 1, op, ": kv_lens must have shape [*], got ", shape_string(kv_lens));
  AttentionMassParams p{};
  p.num_rows = q.size(0);
  p.num_heads = q.size(1);
  p.head_size = q.size(2);
  p.num_slots = kv_lens.size(0);
  p.capacity = capacity;
  p.scale = static_cast<float>(scale);
  check_shape(op, "k_cache", k_cache, {count_positions(op, p.num_slots, capacity), -1, p.head_size});
  p.num_kv_heads = k_cache.size(1);
  STD_TORCH_CHECK(p.num_kv_heads > 0 && p.num_heads % p.num_kv_heads == 0, op, ": q has ", p.num_heads,
                  " heads, which must be a multiple of the ", p.num_kv_heads, " heads of k_cache");
  p.dtype = check_float(op, "q", q);
  check_dtype(op, "k_cache", k_cache, q.scalar_type());
  check_same_device(op, "k_cache", k_cache, q, "q");
  check_contiguous(op, "q", q);
  check_contiguous(op, "k_cache", k_cache);
  p.q = q.data_ptr();
  p.k = k_cache.data_ptr();
  p.cu_rows = check_index(op, "cu_rows", cu_rows, p.num_slots + 1, q, "q");
  p.kv_lens = check_index(op, "kv_lens", kv_lens, p.num_slots, q, "q");
  if (lse) {
    check_shape(op, "lse", *lse, {p.num_rows, p.num_heads});
    check_dtype(op, "lse", *lse, ScalarType::Float);
    check_same_device(op, "lse", *lse, q, "q");
    check_contiguous(op, "lse", *lse);
    p.lse = static_cast<const float*>(lse->data_ptr());
  }
  check_cu_rows(op, cu_rows, p.num_rows);
  check_kv_lens(op, kv_lens, capacity);
  return p;
}

// A contiguous fp32 vector on the device of q.
const float* check_vector(const char* op, const char* name, const Tensor& tensor, int64_t size, const Tensor& q) {
  check_shape(op, name, tensor, {size});
  check_dtype(op, name, tensor, ScalarType::Float);
  check_same_device(op, name, tensor, q, "q");
  check_contiguous(op, name, tensor);
  return static_cast<const float*>(tensor.data_ptr());
}

// Allocates the result and the scratch of the first pass, and runs.
template <typename Run>
Tensor allocate_and_run(AttentionMassParams& p, const Tensor& q, int64_t max_splits, Run&& run) {
  Tensor out = torch::stable::new_empty(q, {p.num_slots * p.capacity}, ScalarType::Float);
  p.out = static_cast<float*>(out.data_ptr());
  if (p.lse || max_splits == 0) {
    run(p);
    return out;
  }
  Tensor lse = torch::stable::new_empty(q, {p.num_rows, p.num_heads}, ScalarType::Float);
  Tensor stats = torch::stable::new_empty(q, {p.num_rows, p.num_heads, max_splits, 2}, ScalarType::Float);
  p.own_lse = static_cast<float*>(lse.data_ptr());
  p.lse = p.own_lse;
  p.max_splits = max_splits;
  p.partial_stats = static_cast<float*>(stats.data_ptr());
  run(p);
  return out;
}

// Two operations per score and head element, eight at a time, and the exponential.
int64_t cost_of_scores(const AttentionMassParams& p, int64_t scores) { return scores * (p.head_size / 4 + 4); }

void run_lse_cpu(AttentionMassParams& p) {
  const int64_t group = p.num_heads / p.num_kv_heads;
  std::vector<int64_t> item_start(p.num_slots + 1, 0);
  int64_t scores = 0;
  for (int64_t s = 0; s < p.num_slots; ++s) {
    const int64_t packed = (p.cu_rows[s + 1] - p.cu_rows[s]) * group;
    item_start[s + 1] = item_start[s] + cpu::attention_tiles(packed) * cpu::attention_splits(p.kv_lens[s]).count;
    scores += packed * p.kv_lens[s];
  }
  p.item_start = item_start.data();
  if (const int64_t items = item_start.back(); items > 0) {
    run_cpu(cpu::attention_mass_stats, p, items * p.num_kv_heads, cost_of_scores(p, scores / items));
  }
  run_cpu(cpu::attention_mass_merge_rows, p, p.cu_rows[p.num_slots], p.num_heads * p.max_splits * 16);
}

Tensor run_mass_cpu(AttentionMassParams& p, const Tensor& q) {
  const int64_t max_splits = max_key_splits<cpu::kAttentionMinKeys, cpu::kAttentionMaxSplits>(p.capacity);
  return allocate_and_run(p, q, max_splits, [](AttentionMassParams& p) {
    if (p.own_lse) run_lse_cpu(p);
    const int64_t blocks = p.num_slots * ((p.capacity + cpu::kMassBlockKeys - 1) / cpu::kMassBlockKeys);
    if (blocks == 0) return;
    int64_t scores = 0;
    for (int64_t s = 0; s < p.num_slots; ++s) scores += (p.cu_rows[s + 1] - p.cu_rows[s]) * p.num_heads * p.kv_lens[s];
    run_cpu(cpu::attention_mass_blocks, p, blocks, cost_of_scores(p, scores / blocks));
  });
}

template <typename Run>
Tensor attention_mass(const Tensor& q, const Tensor& k_cache, const Tensor& cu_rows, const Tensor& kv_lens,
                      int64_t capacity, double scale, const std::optional<Tensor>& lse,
                      const std::optional<Tensor>& row_weight, Run&& run) {
  AttentionMassParams p = check_attention(kMass, q, k_cache, cu_rows, kv_lens, capacity, scale, lse);
  if (row_weight) p.row_weight = check_vector(kMass, "row_weight", *row_weight, p.num_rows, q);
  return run(p);
}

template <typename Run>
Tensor rollout_step(const Tensor& z, const Tensor& q, const Tensor& k_cache, const Tensor& row_index,
                    const Tensor& cu_rows, const Tensor& kv_lens, int64_t capacity, double scale,
                    const std::optional<Tensor>& lse, Run&& run) {
  AttentionMassParams p = check_attention(kRollout, q, k_cache, cu_rows, kv_lens, capacity, scale, lse);
  p.z = check_vector(kRollout, "z", z, p.num_slots * capacity, q);
  p.row_index = check_index(kRollout, "row_index", row_index, p.num_rows, q, "q");
  check_listed_rows(kRollout, row_index, cu_rows, capacity);
  return run(p);
}

Tensor attention_mass_cpu(const Tensor& q, const Tensor& k_cache, const Tensor& cu_rows, const Tensor& kv_lens,
                          int64_t capacity, double scale, std::optional<Tensor> lse, std::optional<Tensor> row_weight) {
  return attention_mass(q, k_cache, cu_rows, kv_lens, capacity, scale, lse, row_weight,
                        [&](AttentionMassParams& p) { return run_mass_cpu(p, q); });
}

Tensor rollout_step_cpu(const Tensor& z, const Tensor& q, const Tensor& k_cache, const Tensor& row_index,
                        const Tensor& cu_rows, const Tensor& kv_lens, int64_t capacity, double scale,
                        std::optional<Tensor> lse) {
  return rollout_step(z, q, k_cache, row_index, cu_rows, kv_lens, capacity, scale, lse,
                      [&](AttentionMassParams& p) { return run_mass_cpu(p, q); });
}

STABLE_TORCH_LIBRARY_IMPL(dlmcache, CPU, m) {
  DLMCACHE_IMPL(m, "attention_mass", attention_mass_cpu);
  DLMCACHE_IMPL(m, "rollout_step", rollout_step_cpu);
}

#ifdef DLMCACHE_WITH_CUDA
Tensor run_mass_cuda(const char* op, AttentionMassParams& p, const Tensor& q) {
  STD_TORCH_CHECK(p.head_size <= cuda::kMaxAttentionHeadSize, op, ": on CUDA the head size must be at most ",
                  cuda::kMaxAttentionHeadSize, ", got ", p.head_size);
  const int64_t max_splits = max_key_splits<cuda::kAttentionMinKeys, cuda::kAttentionMaxSplits>(p.capacity);
  Tensor partial = torch::stable::new_empty(q, {p.num_kv_heads, p.num_slots * p.capacity}, ScalarType::Float);
  p.partial_mass = static_cast<float*>(partial.data_ptr());
  return allocate_and_run(p, q, max_splits, [&](AttentionMassParams& p) {
    if (p.own_lse) run_cuda(op, cuda::launch_attention_mass_lse, p, q);
    run_cuda(op, cuda::launch_attention_mass, p, q);
  });
}

Tensor attention_mass_cuda(const Tensor& q, const Tensor& k_cache, const Tensor& cu_rows, const Tensor& kv_lens,
                           int64_t capacity, double scale, std::optional<Tensor> lse,
                           std::optional<Tensor> row_weight) {
  return attention_mass(q, k_cache, cu_rows, kv_lens, capacity, scale, lse, row_weight,
                        [&](AttentionMassParams& p) { return run_mass_cuda(kMass, p, q); });
}

Tensor rollout_step_cuda(const Tensor& z, const Tensor& q, const Tensor& k_cache, const Tensor& row_index,
                         const Tensor& cu_rows, const Tensor& kv_lens, int64_t capacity, double scale,
                         std::optional<Tensor> lse) {
  return rollout_step(z, q, k_cache, row_index, cu_rows, kv_lens, capacity, scale, lse,
                      [&](AttentionMassParams& p) { return run_mass_cuda(kRollout, p, q); });
}

STABLE_TORCH_LIBRARY_IMPL(dlmcache, CUDA, m) {
  DLMCACHE_IMPL(m, "attention_mass", attention_mass_cuda);
  DLMCACHE_IMPL(m, "rollout_step", rollout_step_cuda);
}
#endif

}  // namespace
}  // namespace dlmcache::ops
