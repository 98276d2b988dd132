// All layers of a step by one call, where layers compute the most drifted of the rows they carry (SPA-Cache,
// dLLM-Cache). On CPUs, for small models, like forward_layers_.

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <optional>
#include <vector>

#include "ops/call.h"
#include "ops/check.h"
#include "ops/check_row_list.h"
#include "ops/layer_loop.h"
#include "ops/matmul.h"
#include "ops/run.h"

namespace dlmcache::ops {
namespace {

constexpr const char* kOp = "select_layers_";

// As in dlmcache_cuda.stack.selection.
enum Signal { kNothing, kProxy, kValue };
enum KvRows { kCarried, kSelected, kValues };

// Rows that a layer computes, of those it carries.
struct Computed {
  Tensor q;  // [C, H, D]
  Tensor row_index, cu_rows, places;
};

class Selector {
 public:
  Selector(const LayerArguments& given, const LayerWeights& weights, const LayerSizes& sizes, const Tensor& delta,
           const Tensor& reference, const Tensor& numbers, const std::vector<int64_t>& most,
           const std::optional<Tensor>& forced, int64_t proxy_rank, int64_t signal, int64_t kv_rows, bool update_all,
           bool reuse_output)
      : given_(given),
        weights_(weights),
        n_(sizes),
        delta_(delta),
        reference_(reference),
        numbers_(numbers),
        most_(most),
        forced_(forced),
        first_(sizes.layers - delta.size(0)),
        rank_(proxy_rank),
        signal_(static_cast<Signal>(signal)),
        kv_rows_(static_cast<KvRows>(kv_rows)),
        update_all_(update_all),
        reuse_output_(reuse_output),
        query_width_(sizes.heads * sizes.head_size),
        value_begin_((sizes.heads + sizes.kv_heads) * sizes.head_size),
        scale_(std::pow(static_cast<double>(sizes.head_size), -0.5)) {}

  Tensor run() {
    Tensor h = given_.h;
    Tensor normed =
        call<1>("dlmcache::rms_norm", h, weights_.get(0, kAttnNorm), given_.eps, std::optional<Tensor>())[0];
    for (int64_t layer = 0; layer < n_.layers; ++layer) {
      const LayerRange range(layer);
      const Computed rows = most_[layer] < 0 ? all(layer, normed) : choose(layer, normed);
      const auto [attended, lse] = call<2>("dlmcache::attention_rows", rows.q, keys(layer), values(layer), rows.cu_rows,
                                           given_.kv_lens, n_.capacity, scale_, false);
      const Tensor attn_out = linear(flat(attended), weights_.get(layer, kAttnOut), std::nullopt);
      const bool last = layer + 1 == n_.layers;
      if (layer < first_) {
        const auto [sum, ff_out] = feed_forward(layer, h, attn_out);
        // Behind the last layer the norm is not read.
        const Tensor& norm = weights_.get(last ? layer : layer + 1, kAttnNorm);
        const auto [next, next_normed] = call<2>("dlmcache::add_rms_norm", sum, ff_out, norm, given_.eps);
        h = next, normed = next_normed;
        continue;
      }
      const Tensor chosen = most_[layer] < 0 ? h : call<1>("dlmcache::gather_rows", h, rows.places)[0];
      const Tensor ff_out = feed_forward(layer, chosen, attn_out)[1];
      const std::optional<Tensor> norm = last ? std::nullopt : std::optional(weights_.get(layer + 1, kAttnNorm));
      const auto [next, next_normed] = call<2>("dlmcache::delta_update_", of_layer(delta_, layer), h, given_.row_index,
                                               attn_out, ff_out, rows.places, norm, given_.eps, reuse_output_);
      h = next, normed = next_normed;
    }
    return h;
  }

 private:
  Tensor keys(int64_t layer) const { return torch::stable::select(given_.k_cache, 0, layer); }
  Tensor values(int64_t layer) const { return torch::stable::select(given_.v_cache, 0, layer); }
  // Of what layers from the first that selects on have.
  Tensor of_layer(const Tensor& tensor, int64_t layer) const {
    return torch::stable::select(tensor, 0, layer - first_);
  }
  Tensor reference(int64_t layer) const {
    return signal_ == kValue ? flat(values(layer)) : of_layer(reference_, layer);
  }
  static Tensor flat(const Tensor& heads) {
    return torch::stable::view(heads, {heads.size(0), heads.size(1) * heads.size(2)});
  }

  // Rotated queries of what was projected; its keys and values go into the caches.
  Tensor rotate(const Tensor& projected, const Tensor& row_index, int64_t num_heads, const Tensor& k_cache,
                const Tensor& v_cache) const {
    return call<1>("dlmcache::rope_scatter_kv_", projected, given_.cos_sin, row_index, n_.capacity, num_heads, k_cache,
                   v_cache)[0];
  }

  std::array<Tensor, 2> feed_forward(int64_t layer, const Tensor& h, const Tensor& attn_out) const {
    const auto [sum, normed] = call<2>("dlmcache::add_rms_norm", h, attn_out, weights_.get(layer, kFfNorm), given_.eps);
    const Tensor gate_up = linear(normed, weights_.get(layer, kGateUp), std::nullopt);
    const auto [activation] = call<1>("dlmcache::swiglu", gate_up);
    return {sum, linear(activation, weights_.get(layer, kFfOut), std::nullopt)};
  }

  // A layer that computes all rows it carries.
  Computed all(int64_t layer, const Tensor& normed) const {
    const Tensor q =
        rotate(weights_.project(layer, normed, 0, n_.qkv()), given_.row_index, n_.heads, keys(layer), values(layer));
    if (layer < first_) return {q, given_.row_index, given_.cu_rows, given_.row_index};
    if (signal_ == kProxy) {
      const Tensor signal = weights_.project(layer, normed, n_.qkv(), n_.qkv() + rank_);
      call<0>("dlmcache::scatter_rows_", reference(layer), signal, given_.row_index);
    }
    Tensor places = torch::stable::new_empty(given_.row_index, {n_.rows});
    const int64_t* row = static_cast<const int64_t*>(given_.row_index.data_ptr());
    int64_t* place = static_cast<int64_t*>(places.data_ptr());
    for (int64_t i = 0; i < n_.rows; ++i) place[i] = row[i] < 0 ? -1 : i;
    return {q, given_.row_index, given_.cu_rows, places};
  }

  Computed choose(int64_t layer, const Tensor& normed) const {
    std::optional<Tensor> signal, kv;
    if (signal_ == kProxy) {
      if (kv_rows_ == kCarried) {
        const auto [carried, proxy] = weights_.project(layer, normed, query_width_, n_.qkv(), n_.qkv() + rank_);
        kv = carried, signal = proxy;
      } else {
        signal = weights_.project(layer, normed, n_.qkv(), n_.qkv() + rank_);
      }
    } else if (signal_ == kValue) {
      signal = weights_.project(layer, normed, value_begin_, n_.qkv());
    }
    const Tensor score = drift(layer, signal);
    const auto [row_index, places, cu_rows] = call<3>("dlmcache::select_rows", score, given_.row_index, given_.cu_rows,
                                                      torch::stable::select(numbers_, 0, layer), most_[layer], true);
    if (signal && !update_all_) {
      const auto [fresh] = call<1>("dlmcache::gather_rows", torch::stable::contiguous(*signal), places);
      call<0>("dlmcache::scatter_rows_", reference(layer), fresh, row_index);
    }
    const auto [chosen] = call<1>("dlmcache::gather_rows", normed, places);
    Tensor k = keys(layer);
    const Tensor v = values(layer), none = torch::stable::narrow(k, 1, 0, 0);
    Tensor q;
    if (kv_rows_ == kCarried) {
      if (!kv) kv = weights_.project(layer, normed, query_width_, n_.qkv());
      rotate(*kv, given_.row_index, 0, k, v);
      q = rotate(weights_.project(layer, chosen, 0, query_width_), row_index, n_.heads, none, none);
    } else if (kv_rows_ == kSelected) {
      q = rotate(weights_.project(layer, chosen, 0, n_.qkv()), row_index, n_.heads, k, v);
    } else {
      const auto [value] = call<1>("dlmcache::gather_rows", *signal, places);
      const std::vector<Tensor> parts{weights_.project(layer, chosen, 0, value_begin_), value};
      q = rotate(call<1>("aten::cat", parts, int64_t{1})[0], row_index, n_.heads, k, v);
    }
    return {q, row_index, cu_rows, places};
  }

  // How far the signal of each carried row moved; infinite where a row is computed anyway.
  Tensor drift(int64_t layer, const std::optional<Tensor>& signal) const {
    Tensor score = signal
                       ? call<1>("dlmcache::cosine_drift_", *signal, reference(layer), given_.row_index, update_all_)[0]
                       : torch::stable::new_zeros(given_.h, {n_.rows}, ScalarType::Float);
    if (!forced_) return score;
    const bool* always = static_cast<const bool*>(forced_->data_ptr());
    const int64_t* row = static_cast<const int64_t*>(given_.row_index.data_ptr());
    float* value = static_cast<float*>(score.data_ptr());
    for (int64_t i = 0; i < n_.rows; ++i) {
      if (row[i] >= 0 && always[row[i]]) value[i] = std::numeric_limits<float>::infinity();
    }
    return score;
  }

  const LayerArguments& given_;
  const LayerWeights& weights_;
  const LayerSizes n_;
  const Tensor& delta_;
  const Tensor& reference_;
  const Tensor& numbers_;
  const std::vector<int64_t>& most_;
  const std::optional<Tensor>& forced_;
  const int64_t first_, rank_;
  const Signal signal_;
  const KvRows kv_rows_;
  const bool update_all_, reuse_output_;
  const int64_t query_width_, value_begin_;  // in the stacked projections
  const double scale_;
};

Tensor select_layers_(const Tensor& h, const std::vector<Tensor>& weights, const std::vector<Tensor>& biases,
                      const Tensor& cos_sin, const Tensor& row_index, const Tensor& cu_rows, const Tensor& kv_lens,
                      int64_t num_heads, double eps, const Tensor& k_cache, const Tensor& v_cache, const Tensor& delta,
                      const Tensor& reference, const Tensor& numbers, const std::vector<int64_t>& sizes,
                      std::optional<Tensor> forced, int64_t proxy_rank, int64_t signal, int64_t kv_rows,
                      bool update_all, bool reuse_output) {
  STD_TORCH_CHECK(signal >= kNothing && signal <= kValue, kOp,
                  ": signal must be 0 (none), 1 (proxy) or 2 (value), got ", signal);
  STD_TORCH_CHECK(kv_rows >= kCarried && kv_rows <= kValues, kOp,
                  ": kv_rows must be 0 (carried), 1 (selected) or 2 (values), got ", kv_rows);
  STD_TORCH_CHECK(kv_rows != kValues || signal == kValue, kOp, ": kv_rows 2 (values) goes with signal 2 (value) only");
  STD_TORCH_CHECK(signal == kProxy ? proxy_rank > 0 : proxy_rank == 0, kOp,
                  ": proxy_rank must be positive with signal 1 (proxy) and 0 without, got ", proxy_rank);
  const Tensor entered = contiguous_rows(kOp, h);
  const LayerArguments given{kOp,     entered, weights,   biases, cos_sin, row_index,
                             cu_rows, kv_lens, num_heads, eps,    k_cache, v_cache};
  const LayerWeights checked = weights_of(given);
  const LayerSizes n = check_layers(given, checked, proxy_rank);
  check_cu_rows(kOp, cu_rows, n.rows);
  check_listed_rows(kOp, row_index, cu_rows, n.capacity);
  check_kv_lens(kOp, kv_lens, n.capacity);
  check_shape(kOp, "delta", delta, {-1, n.cached, n.width});
  const int64_t selecting = delta.size(0), first = n.layers - selecting;
  STD_TORCH_CHECK(first >= 0, kOp, ": delta must be of at most the ", n.layers, " layers of k_cache, got ", selecting);
  check_dtype(kOp, "delta", delta, h.scalar_type());
  check_contiguous(kOp, "delta", delta);
  if (signal == kProxy) {
    check_shape(kOp, "reference", reference, {selecting, n.cached, proxy_rank});
    check_dtype(kOp, "reference", reference, h.scalar_type());
    check_contiguous(kOp, "reference", reference);
  }
  check_shape(kOp, "numbers", numbers, {n.layers, n.slots});
  check_dtype(kOp, "numbers", numbers, ScalarType::Long);
  check_contiguous(kOp, "numbers", numbers);
  STD_TORCH_CHECK(sizes.size() == static_cast<size_t>(n.layers), kOp, ": sizes must be one for each of the ", n.layers,
                  " layers of k_cache, got ", sizes.size());
  const int64_t* number = static_cast<const int64_t*>(numbers.data_ptr());
  const int64_t* offset = static_cast<const int64_t*>(cu_rows.data_ptr());
  for (int64_t layer = 0; layer < n.layers; ++layer) {
    if (sizes[layer] < 0) continue;
    STD_TORCH_CHECK(layer >= first, kOp, ": sizes[", layer, "] is ", sizes[layer], ", but the first ", first,
                    " layers compute all of their rows (-1)");
    int64_t total = 0;
    for (int64_t slot = 0; slot < n.slots; ++slot) {
      const int64_t wanted = number[layer * n.slots + slot];
      STD_TORCH_CHECK(wanted >= 0, kOp, ": numbers[", layer, ", ", slot, "] is ", wanted, ", it must not be negative");
      total += std::min(wanted, offset[slot + 1] - offset[slot]);
    }
    STD_TORCH_CHECK(total <= sizes[layer], kOp, ": ", total, " rows do not fit into sizes[", layer,
                    "] = ", sizes[layer]);
  }
  if (forced) {
    check_shape(kOp, "forced", *forced, {n.cached});
    check_dtype(kOp, "forced", *forced, ScalarType::Bool);
    check_contiguous(kOp, "forced", *forced);
  }
  const int64_t query_width = n.heads * n.head_size;
  if (proxy_rank > 0) checked.check_cut(n.qkv());
  if (signal == kValue) checked.check_cut(query_width + n.kv_heads * n.head_size);
  if (kv_rows == kCarried) checked.check_cut(query_width);
  return Selector(given, checked, n, delta, reference, numbers, sizes, forced, proxy_rank, signal, kv_rows, update_all,
                  reuse_output)
      .run();
}

STABLE_TORCH_LIBRARY_IMPL(dlmcache, CPU, m) { DLMCACHE_IMPL(m, "select_layers_", select_layers_); }
// Where a matrix is packed.
STABLE_TORCH_LIBRARY_IMPL(dlmcache, MkldnnCPU, m) { DLMCACHE_IMPL(m, "select_layers_", select_layers_); }

}  // namespace
}  // namespace dlmcache::ops
