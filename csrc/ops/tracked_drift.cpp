#include "dlmcache/tracked_drift.h"

#include <torch/csrc/stable/library.h>

#include <algorithm>

#include "ops/check.h"
#include "ops/check_row_list.h"
#include "ops/run.h"

namespace dlmcache::ops {
namespace {

constexpr const char* kOp = "tracked_similarity";

// A contiguous tensor like q_old.
const void* check_like(const char* name, const Tensor& tensor, std::initializer_list<int64_t> shape,
                       const Tensor& q_old) {
  check_shape(kOp, name, tensor, shape);
  check_dtype(kOp, name, tensor, q_old.scalar_type());
  check_same_device(kOp, name, tensor, q_old, "q_old");
  check_contiguous(kOp, name, tensor);
  return tensor.data_ptr();
}

template <typename Run>
Tensor tracked_similarity(const Tensor& q_old, const Tensor& q_new, const Tensor& k_cache, const Tensor& k_old,
                          const Tensor& row_index, const Tensor& cu_rows, const Tensor& cu_tracked,
                          const Tensor& kv_lens, int64_t capacity, double scale, int64_t similarity, Run&& run) {
  check_shape(kOp, "q_old", q_old, {-1, -1, -1});
  check_shape(kOp, "k_cache", k_cache, {-1, -1, -1});
  STD_TORCH_CHECK(capacity >= 0, kOp, ": capacity must not be negative, got ", capacity);
  STD_TORCH_CHECK(kv_lens.dim() == 1, kOp, ": kv_lens must have shape [*], got ", shape_string(kv_lens));
  STD_TORCH_CHECK(similarity == 0 || similarity == 1, kOp, ": similarity must be 0 (heads) or 1 (rows), got ",
                  similarity);
  TrackedParams p{};
  p.similarity = static_cast<Similarity>(similarity);
  p.num_tracked = q_old.size(0);
  p.num_heads = q_old.size(1);
  p.head_size = q_old.size(2);
  p.num_kv_heads = k_cache.size(1);
  p.num_slots = kv_lens.size(0);
  p.capacity = capacity;
  p.scale = static_cast<float>(scale);
  STD_TORCH_CHECK(p.num_heads > 0 && p.num_kv_heads > 0 && p.num_heads % p.num_kv_heads == 0, kOp, ": q_old has ",
                  p.num_heads, " heads, which must be a multiple of the ", p.num_kv_heads, " heads of k_cache");
  p.dtype = check_float(kOp, "q_old", q_old);
  check_contiguous(kOp, "q_old", q_old);
  p.q_old = q_old.data_ptr();
  p.q_new = check_like("q_new", q_new, {p.num_tracked, p.num_heads, p.head_size}, q_old);
  p.k =
      check_like("k_cache", k_cache, {count_positions(kOp, p.num_slots, capacity), p.num_kv_heads, p.head_size}, q_old);
  p.row_index = check_index(kOp, "row_index", row_index, -1, q_old, "q_old");
  p.k_old = check_like("k_old", k_old, {row_index.size(0), p.num_kv_heads, p.head_size}, q_old);
  p.cu_rows = check_index(kOp, "cu_rows", cu_rows, p.num_slots + 1, q_old, "q_old");
  p.cu_tracked = check_index(kOp, "cu_tracked", cu_tracked, p.num_slots + 1, q_old, "q_old");
  p.kv_lens = check_index(kOp, "kv_lens", kv_lens, p.num_slots, q_old, "q_old");
  check_cu_rows(kOp, cu_rows, row_index.size(0));
  check_cu_rows(kOp, cu_tracked, p.num_tracked, "cu_tracked");
  check_listed_rows(kOp, row_index, cu_rows, capacity);
  check_kv_lens(kOp, kv_lens, capacity);

  const bool cpu = q_old.is_cpu();
  p.max_splits = cpu ? max_key_splits<cpu::kTrackedMinKeys, cpu::kTrackedMaxSplits>(capacity)
                     : max_key_splits<cuda::kTrackedMinKeys, cuda::kTrackedMaxSplits>(capacity);
  const bool heads = p.similarity == Similarity::kHeads;
  const auto scratch = [&](std::initializer_list<int64_t> shape) {
    return torch::stable::new_empty(q_old, shape, ScalarType::Float);
  };
  const int64_t row_heads = p.num_tracked * p.num_heads;
  Tensor lse = scratch({cpu ? row_heads : 0, 2});
  Tensor stats = scratch({row_heads, 2, p.max_splits, 2});
  Tensor partial = heads ? scratch({p.num_slots, p.max_splits}) : scratch({row_heads, p.max_splits, 3});
  Tensor out = scratch({p.num_slots});
  int64_t num_weights = 0;
  if (cpu && p.num_tracked > 0) {
    for (int64_t s = 0; s < p.num_slots; ++s) p.max_keys = std::max(p.max_keys, p.kv_lens[s]);
    num_weights = cpu::tracked_weights(p);
  }
  Tensor weights = scratch({num_weights});
  p.weights = static_cast<float*>(weights.data_ptr());
  p.lse = static_cast<float*>(lse.data_ptr());
  p.partial_stats = static_cast<float*>(stats.data_ptr());
  (heads ? p.partial_cosine : p.partial_dots) = static_cast<float*>(partial.data_ptr());
  p.out = static_cast<float*>(out.data_ptr());
  run(p);
  return out;
}

Tensor tracked_similarity_cpu(const Tensor& q_old, const Tensor& q_new, const Tensor& k_cache, const Tensor& k_old,
                              const Tensor& row_index, const Tensor& cu_rows, const Tensor& cu_tracked,
                              const Tensor& kv_lens, int64_t capacity, double scale, int64_t similarity) {
  return tracked_similarity(q_old, q_new, k_cache, k_old, row_index, cu_rows, cu_tracked, kv_lens, capacity, scale,
                            similarity, [](const TrackedParams& p) {
                              const int64_t items = p.num_slots * p.max_splits, used = p.cu_tracked[p.num_slots];
                              if (items > 0 && used > 0) {
                                int64_t scores = 0;
                                for (int64_t s = 0; s < p.num_slots; ++s)
                                  scores += (p.cu_tracked[s + 1] - p.cu_tracked[s]) * p.kv_lens[s];
                                // Old and new score of every head, two operations per element, eight at a time.
                                const int64_t cost = 2 * scores * p.num_heads / items * (p.head_size / 4 + 4);
                                run_cpu(cpu::tracked_stats, p, items, cost);
                                run_cpu(cpu::tracked_merge_rows, p, used, p.num_heads * p.max_splits * 32);
                                run_cpu(cpu::tracked_products, p, items, 2 * scores * p.num_heads / items);
                              }
                              run_cpu(cpu::tracked_finish, p, p.num_slots, p.max_splits * 4);
                            });
}

STABLE_TORCH_LIBRARY_IMPL(dlmcache, CPU, m) { DLMCACHE_IMPL(m, "tracked_similarity", tracked_similarity_cpu); }

#ifdef DLMCACHE_WITH_CUDA
Tensor tracked_similarity_cuda(const Tensor& q_old, const Tensor& q_new, const Tensor& k_cache, const Tensor& k_old,
                               const Tensor& row_index, const Tensor& cu_rows, const Tensor& cu_tracked,
                               const Tensor& kv_lens, int64_t capacity, double scale, int64_t similarity) {
  return tracked_similarity(q_old, q_new, k_cache, k_old, row_index, cu_rows, cu_tracked, kv_lens, capacity, scale,
                            similarity,
                            [&](const TrackedParams& p) { run_cuda(kOp, cuda::launch_tracked_similarity, p, q_old); });
}

STABLE_TORCH_LIBRARY_IMPL(dlmcache, CUDA, m) { DLMCACHE_IMPL(m, "tracked_similarity", tracked_similarity_cuda); }
#endif

}  // namespace
}  // namespace dlmcache::ops
