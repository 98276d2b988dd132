#include "ops/layer_loop.h"

#include <cmath>
#include <initializer_list>
#include <optional>

#include "ops/call.h"
#include "ops/check.h"
#include "ops/check_row_list.h"
#include "ops/matmul.h"
#include "ops/run.h"
#include "ops/run_attention.h"

namespace dlmcache::ops {
namespace {

void keep_rows(Tensor& tensor, int64_t count) {
  if (tensor.defined()) tensor = torch::stable::narrow(tensor, 0, 0, count);
}

void run_loops(const RmsNormParams& p, const Tensor&) { run_cpu(cpu::rms_norm_rows, p, p.num_rows, 4 * p.width); }
void run_loops(const AddRmsNormParams& p, const Tensor&) {
  run_cpu(cpu::add_rms_norm_rows, p, p.num_rows, 6 * p.width);
}
void run_loops(const RopeScatterKvParams& p, const Tensor&) {
  run_cpu(cpu::rope_scatter_kv_rows, p, p.num_rows, (p.num_heads + 2 * p.num_kv_heads) * p.head_dim);
}
void run_loops(AttentionParams p, const Tensor& like) { run_attention_cpu(p, like); }
void run_loops(const SwigluParams& p, const Tensor&) { run_cpu(cpu::swiglu_rows, p, p.num_rows, 8 * p.width); }

#ifdef DLMCACHE_WITH_CUDA
void run_kernels(const char* op, const RmsNormParams& p, const Tensor& like) {
  run_cuda(op, cuda::launch_rms_norm, p, like);
}
void run_kernels(const char* op, const AddRmsNormParams& p, const Tensor& like) {
  run_cuda(op, cuda::launch_add_rms_norm, p, like);
}
void run_kernels(const char* op, const RopeScatterKvParams& p, const Tensor& like) {
  run_cuda(op, cuda::launch_rope_scatter_kv, p, like);
}
void run_kernels(const char* op, AttentionParams p, const Tensor& like) { run_attention_cuda(op, p, like); }
void run_kernels(const char* op, const SwigluParams& p, const Tensor& like) {
  run_cuda(op, cuda::launch_swiglu, p, like);
}
#endif

// On a CPU: that the rows that are read belong to the slots that cu_read says.
void check_read(const LayerArguments& given, const LayerSizes& n) {
  if (!given.h.is_cpu() || !given.read_places.has_value()) return;
  check_cu_rows(given.op, *given.cu_read, given.read_places->size(0), "cu_read");
  const int64_t* place = static_cast<const int64_t*>(given.read_places->data_ptr());
  const int64_t* read = static_cast<const int64_t*>(given.cu_read->data_ptr());
  const int64_t* rows = static_cast<const int64_t*>(given.cu_rows.data_ptr());
  for (int64_t slot = 0; slot < n.slots; ++slot) {
    for (int64_t i = read[slot]; i < read[slot + 1]; ++i) {
      STD_TORCH_CHECK(place[i] == -1 || (place[i] >= rows[slot] && place[i] < rows[slot + 1]), given.op,
                      ": read_places[", i, "] is ", place[i], ", allowed in slot ", slot, " are -1 and ", rows[slot],
                      " to ", rows[slot + 1] - 1);
    }
  }
}

}  // namespace

Tensor contiguous_rows(const char* op, const Tensor& h) {
  check_shape(op, "h", h, {-1, -1});
  check_row_contiguous(op, "h", h);
  return h.is_contiguous() ? h : torch::stable::contiguous(h);
}

LayerWeights weights_of(const LayerArguments& given) {
  check_shape(given.op, "h", given.h, {-1, -1});
  check_shape(given.op, "k_cache", given.k_cache, {-1, -1, -1, -1});
  return {given.op, given.weights, given.biases, given.k_cache.size(0)};
}

LayerSizes check_layers(const LayerArguments& given, const LayerWeights& checked, int64_t proxy_rank) {
  const auto& [op, h, weights, biases, cos_sin, row_index, cu_rows, kv_lens, num_heads, eps, k_cache, v_cache,
               read_places, cu_read] = given;
  check_shape(op, "cos_sin", cos_sin, {-1, k_cache.size(3)});
  check_shape(op, "kv_lens", kv_lens, {-1});
  LayerSizes n{};
  n.layers = k_cache.size(0);
  n.cached = k_cache.size(1);
  n.kv_heads = k_cache.size(2);
  n.head_size = k_cache.size(3);
  n.rows = h.size(0);
  n.width = h.size(1);
  n.heads = num_heads;
  n.capacity = cos_sin.size(0);
  n.slots = kv_lens.size(0);
  check_shape(op, "v_cache", v_cache, {n.layers, n.cached, n.kv_heads, n.head_size});
  STD_TORCH_CHECK(n.cached == count_positions(op, n.slots, n.capacity), op,
                  ": k_cache must have slots * capacity = ", n.slots, " * ", n.capacity,
                  " rows (entries of kv_lens, rows of cos_sin), got ", n.cached);
  STD_TORCH_CHECK(n.kv_heads > 0 && num_heads > 0 && num_heads % n.kv_heads == 0, op, ": num_heads is ", num_heads,
                  ", it must be a positive multiple of the ", n.kv_heads, " heads of k_cache");
  STD_TORCH_CHECK(n.head_size % 2 == 0, op, ": the head size (last dimension of k_cache) must be even, got ",
                  n.head_size);
  const Tensor& gate_up = checked.get(0, kGateUp);
  const std::string gate_up_name = checked.name(0, kGateUp);
  check_shape(op, gate_up_name.c_str(), gate_up, {-1, n.width});
  STD_TORCH_CHECK(gate_up.size(0) % 2 == 0, op, ": ", gate_up_name,
                  " must have an even number of rows, gate and up, got ", shape_string(gate_up));
  n.inner = gate_up.size(0) / 2;

  const auto check_tensor = [&](const std::string& name, const Tensor& tensor, std::initializer_list<int64_t> shape) {
    check_shape(op, name.c_str(), tensor, shape);
    check_dtype(op, name.c_str(), tensor, h.scalar_type());
    check_same_device(op, name.c_str(), tensor, h, "h");
  };
  check_float(op, "h", h);
  check_tensor("k_cache", k_cache, {-1, -1, -1, -1});
  check_tensor("v_cache", v_cache, {-1, -1, -1, -1});
  checked.check(h, n.qkv() + proxy_rank, n.heads * n.head_size, n.inner);
  check_dtype(op, "cos_sin", cos_sin, ScalarType::Float);
  check_same_device(op, "cos_sin", cos_sin, h, "h");
  check_row_contiguous(op, "h", h);
  check_contiguous(op, "cos_sin", cos_sin);
  check_contiguous(op, "k_cache", k_cache);
  check_contiguous(op, "v_cache", v_cache);
  check_index(op, "row_index", row_index, n.rows, h, "h");
  check_index_range(op, "row_index", row_index, n.cached);
  check_index(op, "cu_rows", cu_rows, n.slots + 1, h, "h");
  check_index(op, "kv_lens", kv_lens, n.slots, h, "h");
  STD_TORCH_CHECK(read_places.has_value() == cu_read.has_value(), op,
                  ": read_places and cu_read must be given together, got only ",
                  read_places.has_value() ? "read_places" : "cu_read");
  if (read_places.has_value()) {
    check_index(op, "read_places", *read_places, -1, h, "h");
    check_index_range(op, "read_places", *read_places, n.rows);
    STD_TORCH_CHECK(read_places->size(0) <= n.rows, op, ": read_places has ", read_places->size(0),
                    " entries, more than the ", n.rows, " rows of h");
    check_index(op, "cu_read", *cu_read, n.slots + 1, h, "h");
  }
  return n;
}

// Every part under the name that it has alone.
template <typename Params>
void LayerLoop::run(const char* name, const Params& params) const {
  const NvtxRange range(name);
#ifdef DLMCACHE_WITH_CUDA
  if (!given_.h.is_cpu()) return run_kernels(given_.op, params, given_.h);
#endif
  run_loops(params, given_.h);
}

LayerLoop::LayerLoop(const LayerArguments& given, bool return_lse)
    : weights(weights_of(given)),
      sizes(check_layers(given, weights)),
      given_(given),
      layer_bytes_(sizes.cached * sizes.kv_heads * sizes.head_size * static_cast<int64_t>(given.h.element_size())),
      stream_(&given.h) {
  const LayerSizes& n = sizes;
  const char* op = given.op;
  const Tensor& h = given.h;
  const DType dtype = check_float(op, "h", h);

  const auto buffer = [&](int64_t width) { return torch::stable::new_empty(h, {n.rows, width}); };
  sums_[0] = buffer(n.width);
  sums_[1] = buffer(n.width);
  normed_ = buffer(n.width);
  q_ = torch::stable::new_empty(h, {n.rows, n.heads, n.head_size});
  attended_ = buffer(n.heads * n.head_size);
  activation_ = buffer(n.inner);

  attention_.dtype = dtype;
  attention_.num_rows = n.rows;
  attention_.num_heads = n.heads;
  attention_.num_kv_heads = n.kv_heads;
  attention_.head_size = n.head_size;
  attention_.num_slots = n.slots;
  attention_.capacity = n.capacity;
  attention_.scale = static_cast<float>(std::pow(static_cast<double>(n.head_size), -0.5));
  attention_.cu_rows = static_cast<const int64_t*>(given.cu_rows.data_ptr());
  attention_.kv_lens = static_cast<const int64_t*>(given.kv_lens.data_ptr());
  attention_.q = q_.data_ptr();
  attention_.out = attended_.data_ptr();
  if (h.is_cpu()) check_attention_lists(op, attention_);
  check_read(given, n);
  if (return_lse) {
    lse_ = torch::stable::new_empty(h, {n.rows, n.heads}, ScalarType::Float);
    attention_.lse = static_cast<float*>(lse_.data_ptr());
  }

  norm_.dtype = dtype;
  norm_.num_rows = n.rows;
  norm_.width = n.width;
  norm_.eps = static_cast<float>(given.eps);
  norm_.x = h.data_ptr();
  norm_.x_stride = h.stride(0);
  norm_.out = normed_.data_ptr();

  add_norm_.dtype = dtype;
  add_norm_.num_rows = n.rows;
  add_norm_.width = n.width;
  add_norm_.eps = static_cast<float>(given.eps);
  add_norm_.y_stride = n.width;
  add_norm_.normed = normed_.data_ptr();

  rope_.dtype = dtype;
  rope_.num_rows = n.rows;
  rope_.num_heads = n.heads;
  rope_.num_kv_heads = n.kv_heads;
  rope_.head_dim = n.head_size;
  rope_.capacity = n.capacity;
  rope_.qkv_stride = n.qkv();
  rope_.cos_sin = static_cast<const float*>(given.cos_sin.data_ptr());
  rope_.row_index = static_cast<const int64_t*>(given.row_index.data_ptr());
  rope_.q = q_.data_ptr();

  swiglu_.dtype = dtype;
  swiglu_.num_rows = n.rows;
  swiglu_.width = n.inner;
  swiglu_.gate_up_stride = 2 * n.inner;
  swiglu_.out = activation_.data_ptr();
}

void LayerLoop::begin(int64_t layer) {
  norm_.weight = weights.get(layer, kAttnNorm).data_ptr();
  run("dlmcache::rms_norm", norm_);
}

void LayerLoop::project(int64_t layer) {
  const int64_t query_width = sizes.heads * sizes.head_size;
  rope_.k_cache = static_cast<char*>(given_.k_cache.data_ptr()) + layer * layer_bytes_;
  rope_.v_cache = static_cast<char*>(given_.v_cache.data_ptr()) + layer * layer_bytes_;
  if (weights.parts() > 1 && weights.cut_at(query_width)) {
    // Not put together, only to be taken apart again.
    rotate(weights.project(layer, normed_, 0, query_width), sizes.heads, 0);
    rotate(weights.project(layer, normed_, query_width, sizes.qkv()), 0, sizes.kv_heads);
    return;
  }
  weights.project_all(layer, normed_, qkv_);
  rotate(qkv_, sizes.heads, sizes.kv_heads);
}

void LayerLoop::rotate(const Tensor& projected, int64_t heads, int64_t kv_heads) {
  rope_.num_heads = heads;
  rope_.num_kv_heads = kv_heads;
  rope_.qkv = projected.data_ptr();
  rope_.qkv_stride = projected.stride(0);
  run("dlmcache::rope_scatter_kv_", rope_);
}

void LayerLoop::attend(int64_t layer) {
  if (narrows(layer)) narrow();
  attention_.k = static_cast<const char*>(given_.k_cache.data_ptr()) + layer * layer_bytes_;
  attention_.v = static_cast<const char*>(given_.v_cache.data_ptr()) + layer * layer_bytes_;
  run("dlmcache::attention_rows", attention_);
  multiply(attended_, weights.get(layer, kAttnOut), std::nullopt, branch_);
}

void LayerLoop::feed_forward(int64_t layer) {
  add_norm(weights.get(layer, kFfNorm));
  multiply(normed_, weights.get(layer, kGateUp), std::nullopt, gate_up_);
  swiglu_.gate_up = gate_up_.data_ptr();
  run("dlmcache::swiglu", swiglu_);
  multiply(activation_, weights.get(layer, kFfOut), std::nullopt, branch_);
}

void LayerLoop::advance(int64_t layer) { add_norm(weights.get(layer + 1, kAttnNorm)); }

void LayerLoop::narrow() {
  const Tensor& places = *given_.read_places;
  const int64_t count = places.size(0);
  Tensor& free_sum = stream_ == sums_ ? sums_[1] : sums_[0];
  if (stream_ == &given_.h) {
    unread_ = sums_[1];
    torch::stable::copy_(unread_, given_.h);
  } else {
    unread_ = *stream_;
  }
  const auto [read] = call<1>("dlmcache::gather_rows", unread_, places);
  sums_[0] = free_sum;
  sums_[1] = read;
  stream_ = &sums_[1];
  for (Tensor* rows : {&sums_[0], &normed_, &branch_, &attended_, &gate_up_, &activation_}) keep_rows(*rows, count);
  read_q_ = call<1>("dlmcache::gather_rows", q_, places)[0];

  attention_.num_rows = add_norm_.num_rows = swiglu_.num_rows = count;
  attention_.cu_rows = static_cast<const int64_t*>(given_.cu_read->data_ptr());
  attention_.q = read_q_.data_ptr();
  attention_.lse = nullptr;
}

const Tensor& LayerLoop::finish(int64_t layer) {
  // For the sum alone: whatever norm comes with it is not read.
  add_norm(weights.get(layer, kFfNorm));
  if (!narrows(layer)) return *stream_;
  call<0>("dlmcache::scatter_rows_", unread_, *stream_, *given_.read_places);
  return unread_;
}

void LayerLoop::add_norm(const Tensor& norm_weight) {
  Tensor& sum = stream_ == sums_ ? sums_[1] : sums_[0];
  add_norm_.x = stream_->data_ptr();
  add_norm_.x_stride = stream_->stride(0);
  add_norm_.y = branch_.data_ptr();
  add_norm_.weight = norm_weight.data_ptr();
  add_norm_.sum = sum.data_ptr();
  run("dlmcache::add_rms_norm", add_norm_);
  stream_ = &sum;
}

}  // namespace dlmcache::ops
