// All layers of a step by one call. With a small model, starting the operators of every layer from Python costs as much
// as what they compute; nothing here is allocated, checked or looked up per layer.

#include <torch/csrc/stable/library.h>

#include <cmath>
#include <optional>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "dlmcache/attention.h"
#include "dlmcache/norm.h"
#include "dlmcache/rope_cache.h"
#include "dlmcache/swiglu.h"
#include "ops/check.h"
#include "ops/matmul.h"
#include "ops/run.h"
#include "ops/run_attention.h"

namespace dlmcache::ops {
namespace {

constexpr const char* kOp = "forward_layers_";

// What `weights` holds of every layer, in this order.
enum Weight { kAttnNorm, kQkv, kAttnOut, kFfNorm, kGateUp, kFfOut, kWeightsPerLayer };

struct CpuLoops {
  static void run(const RmsNormParams& p, const Tensor&) { run_cpu(cpu::rms_norm_rows, p, p.num_rows, 4 * p.width); }
  static void run(const AddRmsNormParams& p, const Tensor&) {
    run_cpu(cpu::add_rms_norm_rows, p, p.num_rows, 6 * p.width);
  }
  static void run(const RopeScatterKvParams& p, const Tensor&) {
    run_cpu(cpu::rope_scatter_kv_rows, p, p.num_rows, (p.num_heads + 2 * p.num_kv_heads) * p.head_dim);
  }
  static void run(AttentionParams p, const Tensor& like) { run_attention_cpu(p, like); }
  static void run(const SwigluParams& p, const Tensor&) { run_cpu(cpu::swiglu_rows, p, p.num_rows, 8 * p.width); }
};

#ifdef DLMCACHE_WITH_CUDA
struct CudaKernels {
  static void run(const RmsNormParams& p, const Tensor& like) { run_cuda(kOp, cuda::launch_rms_norm, p, like); }
  static void run(const AddRmsNormParams& p, const Tensor& like) { run_cuda(kOp, cuda::launch_add_rms_norm, p, like); }
  static void run(const RopeScatterKvParams& p, const Tensor& like) {
    run_cuda(kOp, cuda::launch_rope_scatter_kv, p, like);
  }
  static void run(AttentionParams p, const Tensor& like) { run_attention_cuda(kOp, p, like); }
  static void run(const SwigluParams& p, const Tensor& like) { run_cuda(kOp, cuda::launch_swiglu, p, like); }
};
#endif

struct Sizes {
  int64_t layers, rows, width, heads, kv_heads, head_size, inner, slots, capacity, cached;

  int64_t qkv() const { return (heads + 2 * kv_heads) * head_size; }
};

Sizes check(const Tensor& h, const std::vector<Tensor>& weights, const std::vector<Tensor>& biases,
            const Tensor& cos_sin, const Tensor& kv_lens, int64_t num_heads, const Tensor& k_cache,
            const Tensor& v_cache) {
  check_shape(kOp, "h", h, {-1, -1});
  check_shape(kOp, "k_cache", k_cache, {-1, -1, -1, -1});
  check_shape(kOp, "cos_sin", cos_sin, {-1, k_cache.size(3)});
  check_shape(kOp, "kv_lens", kv_lens, {-1});
  Sizes n{};
  n.layers = k_cache.size(0);
  n.cached = k_cache.size(1);
  n.kv_heads = k_cache.size(2);
  n.head_size = k_cache.size(3);
  n.rows = h.size(0);
  n.width = h.size(1);
  n.heads = num_heads;
  n.capacity = cos_sin.size(0);
  n.slots = kv_lens.size(0);
  check_shape(kOp, "v_cache", v_cache, {n.layers, n.cached, n.kv_heads, n.head_size});
  STD_TORCH_CHECK(n.cached == n.slots * n.capacity, kOp, ": k_cache must have slots * capacity = ", n.slots, " * ",
                  n.capacity, " rows (entries of kv_lens, rows of cos_sin), got ", n.cached);
  STD_TORCH_CHECK(n.kv_heads > 0 && num_heads > 0 && num_heads % n.kv_heads == 0, kOp, ": num_heads is ", num_heads,
                  ", it must be a positive multiple of the ", n.kv_heads, " heads of k_cache");
  STD_TORCH_CHECK(n.head_size % 2 == 0, kOp, ": the head size (last dimension of k_cache) must be even, got ",
                  n.head_size);
  STD_TORCH_CHECK(n.layers > 0 && weights.size() == static_cast<size_t>(n.layers * kWeightsPerLayer), kOp,
                  ": weights must be six tensors for each of the ", n.layers, " layers of k_cache, got ",
                  weights.size());
  STD_TORCH_CHECK(biases.empty() || biases.size() == static_cast<size_t>(n.layers), kOp,
                  ": biases must be empty or one tensor for each of the ", n.layers, " layers of k_cache, got ",
                  biases.size());
  check_shape(kOp, "weights[4]", weights[kGateUp], {-1, n.width});
  STD_TORCH_CHECK(weights[kGateUp].size(0) % 2 == 0, kOp,
                  ": weights[4] must have an even number of rows, gate and up, got ", shape_string(weights[kGateUp]));
  n.inner = weights[kGateUp].size(0) / 2;

  const auto check_tensor = [&](const std::string& name, const Tensor& tensor, std::initializer_list<int64_t> shape) {
    check_shape(kOp, name.c_str(), tensor, shape);
    check_dtype(kOp, name.c_str(), tensor, h.scalar_type());
    check_same_device(kOp, name.c_str(), tensor, h, "h");
  };
  check_float(kOp, "h", h);
  check_tensor("k_cache", k_cache, {-1, -1, -1, -1});
  check_tensor("v_cache", v_cache, {-1, -1, -1, -1});
  for (int64_t i = 0; i < n.layers * kWeightsPerLayer; ++i) {
    const std::string name = "weights[" + std::to_string(i) + "]";
    const auto one = [&](std::initializer_list<int64_t> shape) { check_tensor(name, weights[i], shape); };
    switch (i % kWeightsPerLayer) {
      case kAttnNorm:
      case kFfNorm:
        one({n.width});
        check_contiguous(kOp, name.c_str(), weights[i]);
        break;
      case kQkv:
        one({n.qkv(), n.width});
        break;
      case kAttnOut:
        one({n.width, n.heads * n.head_size});
        break;
      case kGateUp:
        one({2 * n.inner, n.width});
        break;
      case kFfOut:
        one({n.width, n.inner});
        break;
    }
  }
  for (size_t i = 0; i < biases.size(); ++i) check_tensor("biases[" + std::to_string(i) + "]", biases[i], {n.qkv()});
  check_dtype(kOp, "cos_sin", cos_sin, ScalarType::Float);
  check_same_device(kOp, "cos_sin", cos_sin, h, "h");
  check_row_contiguous(kOp, "h", h);
  check_contiguous(kOp, "cos_sin", cos_sin);
  check_contiguous(kOp, "k_cache", k_cache);
  check_contiguous(kOp, "v_cache", v_cache);
  return n;
}

template <typename Backend>
std::tuple<Tensor, Tensor> forward_layers_(const Tensor& h, const std::vector<Tensor>& weights,
                                           const std::vector<Tensor>& biases, const Tensor& cos_sin,
                                           const Tensor& row_index, const Tensor& cu_rows, const Tensor& kv_lens,
                                           int64_t num_heads, double eps, const Tensor& k_cache,
                                           const Tensor& v_cache) {
  const Sizes n = check(h, weights, biases, cos_sin, kv_lens, num_heads, k_cache, v_cache);
  const DType dtype = check_float(kOp, "h", h);
  const int64_t* index = check_index(kOp, "row_index", row_index, n.rows, h, "h");
  check_index_range(kOp, "row_index", row_index, n.cached);
  const int64_t* cu = check_index(kOp, "cu_rows", cu_rows, n.slots + 1, h, "h");
  const int64_t* lengths = check_index(kOp, "kv_lens", kv_lens, n.slots, h, "h");

  const auto buffer = [&](int64_t width) { return torch::stable::new_empty(h, {n.rows, width}); };
  // The residual stream of this sum and of the one before.
  Tensor stream = buffer(n.width), next_stream = buffer(n.width);
  const Tensor normed = buffer(n.width), branch = buffer(n.width), qkv = buffer(n.qkv());
  const Tensor q = buffer(n.heads * n.head_size), attended = buffer(n.heads * n.head_size);
  const Tensor gate_up = buffer(2 * n.inner), activation = buffer(n.inner);

  // Every part under the name that it has alone.
  const auto run = [&](const char* name, const auto& params) {
    const NvtxRange range(name);
    Backend::run(params, h);
  };
  const auto add_norm = [&](const Tensor& x, const Tensor& weight, const Tensor& sum) {
    AddRmsNormParams p{};
    p.dtype = dtype;
    p.num_rows = n.rows;
    p.width = n.width;
    p.eps = static_cast<float>(eps);
    p.x = x.data_ptr();
    p.x_stride = x.stride(0);
    p.y = branch.data_ptr();
    p.y_stride = n.width;
    p.weight = weight.data_ptr();
    p.sum = sum.data_ptr();
    p.normed = normed.data_ptr();
    run("dlmcache::add_rms_norm", p);
  };

  RopeScatterKvParams rope{};
  rope.dtype = dtype;
  rope.num_rows = n.rows;
  rope.num_heads = n.heads;
  rope.num_kv_heads = n.kv_heads;
  rope.head_dim = n.head_size;
  rope.capacity = n.capacity;
  rope.qkv = qkv.data_ptr();
  rope.qkv_stride = n.qkv();
  rope.cos_sin = static_cast<const float*>(cos_sin.data_ptr());
  rope.row_index = index;
  rope.q = q.data_ptr();

  AttentionParams attention{};
  attention.dtype = dtype;
  attention.num_rows = n.rows;
  attention.num_heads = n.heads;
  attention.num_kv_heads = n.kv_heads;
  attention.head_size = n.head_size;
  attention.num_slots = n.slots;
  attention.capacity = n.capacity;
  attention.scale = static_cast<float>(std::pow(static_cast<double>(n.head_size), -0.5));
  attention.cu_rows = cu;
  attention.kv_lens = lengths;
  attention.q = q.data_ptr();
  attention.out = attended.data_ptr();
  if (h.is_cpu()) check_attention_lists(kOp, attention);  // before anything is written

  SwigluParams swiglu{};
  swiglu.dtype = dtype;
  swiglu.num_rows = n.rows;
  swiglu.width = n.inner;
  swiglu.gate_up = gate_up.data_ptr();
  swiglu.gate_up_stride = 2 * n.inner;
  swiglu.out = activation.data_ptr();

  RmsNormParams norm{};
  norm.dtype = dtype;
  norm.num_rows = n.rows;
  norm.width = n.width;
  norm.eps = static_cast<float>(eps);
  norm.x = h.data_ptr();
  norm.x_stride = h.stride(0);
  norm.weight = weights[kAttnNorm].data_ptr();
  norm.out = normed.data_ptr();
  run("dlmcache::rms_norm", norm);

  const int64_t layer_bytes = n.cached * n.kv_heads * n.head_size * (dtype == DType::kFloat32 ? 4 : 2);
  const Tensor* before = &h;
  for (int64_t layer = 0; layer < n.layers; ++layer) {
    const NvtxRange range(nvtx_enabled ? ("layer " + std::to_string(layer)).c_str() : "");
    const Tensor* w = weights.data() + layer * kWeightsPerLayer;
    rope.k_cache = static_cast<char*>(k_cache.data_ptr()) + layer * layer_bytes;
    rope.v_cache = static_cast<char*>(v_cache.data_ptr()) + layer * layer_bytes;
    attention.k = rope.k_cache;
    attention.v = rope.v_cache;
    linear_out(normed, w[kQkv], biases.empty() ? std::nullopt : std::optional(biases[layer]), qkv);
    run("dlmcache::rope_scatter_kv_", rope);
    run("dlmcache::attention_rows", attention);
    linear_out(attended, w[kAttnOut], std::nullopt, branch);
    add_norm(*before, w[kFfNorm], next_stream);
    std::swap(stream, next_stream);
    linear_out(normed, w[kGateUp], std::nullopt, gate_up);
    run("dlmcache::swiglu", swiglu);
    linear_out(activation, w[kFfOut], std::nullopt, branch);
    if (layer + 1 == n.layers) break;
    add_norm(stream, w[kWeightsPerLayer + kAttnNorm], next_stream);
    std::swap(stream, next_stream);
    before = &stream;
  }
  return {stream, branch};
}

STABLE_TORCH_LIBRARY_IMPL(dlmcache, CPU, m) { DLMCACHE_IMPL(m, "forward_layers_", forward_layers_<CpuLoops>); }

#ifdef DLMCACHE_WITH_CUDA
STABLE_TORCH_LIBRARY_IMPL(dlmcache, CUDA, m) { DLMCACHE_IMPL(m, "forward_layers_", forward_layers_<CudaKernels>); }
#endif

}  // namespace
}  // namespace dlmcache::ops
