#include "dlmcache/rope_cache.h"

#include <torch/csrc/stable/library.h>

#include "ops/check.h"
#include "ops/run.h"

namespace dlmcache::ops {
namespace {

constexpr const char* kOp = "rope_scatter_kv_";

template <typename Run>
Tensor rope_scatter_kv_(const Tensor& qkv, const Tensor& cos_sin, const Tensor& row_index, int64_t capacity,
                        int64_t num_heads, const Tensor& k_cache, const Tensor& v_cache, Run&& run) {
  check_shape(kOp, "k_cache", k_cache, {-1, -1, -1});
  const int64_t num_cached = k_cache.size(0), num_kv_heads = k_cache.size(1), head_dim = k_cache.size(2);
  STD_TORCH_CHECK(head_dim % 2 == 0, kOp, ": the head size (last dimension of k_cache) must be even, got ", head_dim);
  STD_TORCH_CHECK(num_heads >= 0, kOp, ": num_heads must not be negative, got ", num_heads);
  STD_TORCH_CHECK(capacity >= 1, kOp, ": capacity must be at least 1, got ", capacity);
  STD_TORCH_CHECK(num_cached % capacity == 0, kOp, ": k_cache must have slots * capacity rows, got ", num_cached,
                  " rows with a capacity of ", capacity);
  check_shape(kOp, "v_cache", v_cache, {num_cached, num_kv_heads, head_dim});
  check_shape(kOp, "qkv", qkv, {-1, (num_heads + 2 * num_kv_heads) * head_dim});
  check_shape(kOp, "cos_sin", cos_sin, {capacity, head_dim});
  const int64_t num_rows = qkv.size(0);
  check_shape(kOp, "row_index", row_index, {num_rows});
  const DType dtype = check_float(kOp, "qkv", qkv);
  check_dtype(kOp, "k_cache", k_cache, qkv.scalar_type());
  check_dtype(kOp, "v_cache", v_cache, qkv.scalar_type());
  check_dtype(kOp, "cos_sin", cos_sin, ScalarType::Float);
  check_same_device(kOp, "cos_sin", cos_sin, qkv, "qkv");
  check_same_device(kOp, "k_cache", k_cache, qkv, "qkv");
  check_same_device(kOp, "v_cache", v_cache, qkv, "qkv");
  const int64_t* index = check_index(kOp, "row_index", row_index, num_rows, qkv, "qkv");
  check_row_contiguous(kOp, "qkv", qkv);
  check_contiguous(kOp, "cos_sin", cos_sin);
  check_contiguous(kOp, "k_cache", k_cache);
  check_contiguous(kOp, "v_cache", v_cache);
  check_index_range(kOp, "row_index", row_index, num_cached);

  Tensor q = torch::stable::new_empty(qkv, {num_rows, num_heads, head_dim});
  RopeScatterKvParams p{};
  p.dtype = dtype;
  p.num_rows = num_rows;
  p.num_heads = num_heads;
  p.num_kv_heads = num_kv_heads;
  p.head_dim = head_dim;
  p.capacity = capacity;
  p.qkv = qkv.data_ptr();
  p.qkv_stride = qkv.stride(0);
  p.cos_sin = static_cast<const float*>(cos_sin.data_ptr());
  p.row_index = index;
  p.k_cache = k_cache.data_ptr();
  p.v_cache = v_cache.data_ptr();
  p.q = q.data_ptr();
  run(p);
  return q;
}

Tensor rope_scatter_kv_cpu(const Tensor& qkv, const Tensor& cos_sin, const Tensor& row_index, int64_t capacity,
                           int64_t num_heads, Tensor k_cache, Tensor v_cache) {
  return rope_scatter_kv_(qkv, cos_sin, row_index, capacity, num_heads, k_cache, v_cache,
                          [](const RopeScatterKvParams& p) {
                            const int64_t width = (p.num_heads + 2 * p.num_kv_heads) * p.head_dim;
                            run_cpu(cpu::rope_scatter_kv_rows, p, p.num_rows, width);
                          });
}

STABLE_TORCH_LIBRARY_IMPL(dlmcache, CPU, m) { DLMCACHE_IMPL(m, "rope_scatter_kv_", rope_scatter_kv_cpu); }

#ifdef DLMCACHE_WITH_CUDA
Tensor rope_scatter_kv_cuda(const Tensor& qkv, const Tensor& cos_sin, const Tensor& row_index, int64_t capacity,
                            int64_t num_heads, Tensor k_cache, Tensor v_cache) {
  return rope_scatter_kv_(qkv, cos_sin, row_index, capacity, num_heads, k_cache, v_cache,
                          [&](const RopeScatterKvParams& p) { run_cuda(kOp, cuda::launch_rope_scatter_kv, p, qkv); });
}

STABLE_TORCH_LIBRARY_IMPL(dlmcache, CUDA, m) { DLMCACHE_IMPL(m, "rope_scatter_kv_", rope_scatter_kv_cuda); }
#endif

}  // namespace
}  // namespace dlmcache::ops
