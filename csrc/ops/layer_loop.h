// The parts of a layer one after the other, for the operators that take rows through several layers. Nothing is
// allocated, checked or looked up per layer.
#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/tensor.h>

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "dlmcache/attention.h"
#include "dlmcache/norm.h"
#include "dlmcache/rope_cache.h"
#include "dlmcache/swiglu.h"
#include "ops/layer_weights.h"
#include "ops/nvtx.h"

namespace dlmcache::ops {

using torch::stable::Tensor;

// What such an operator is given: the rows, the weights of all layers and their cache.
struct LayerArguments {
  const char* op;
  const Tensor& h;
  const std::vector<Tensor>& weights;
  const std::vector<Tensor>& biases;
  const Tensor& cos_sin;
  const Tensor& row_index;
  const Tensor& cu_rows;
  const Tensor& kv_lens;
  int64_t num_heads;
  double eps;
  const Tensor& k_cache;
  const Tensor& v_cache;
  // Where the rows of which something is read behind the last layer stand among the rows, and which slot they belong
  // to; none: all are read.
  const std::optional<Tensor>& read_places = kAll;
  const std::optional<Tensor>& cu_read = kAll;

  static inline const std::optional<Tensor> kAll;
};

struct LayerSizes {
  int64_t layers, rows, width, heads, kv_heads, head_size, inner, slots, capacity, cached;

  int64_t qkv() const { return (heads + 2 * kv_heads) * head_size; }
};

// `h` for operators whose parts take it one row after the other.
Tensor contiguous_rows(const char* op, const Tensor& h);

// The weights, checked for their number alone.
LayerWeights weights_of(const LayerArguments& given);

// Checks everything else; `proxy_rank` rows may stand below the projections.
LayerSizes check_layers(const LayerArguments& given, const LayerWeights& weights, int64_t proxy_rank = 0);

class LayerLoop {
 public:
  // Checks everything and takes the buffers that all layers share; nothing is written yet. `given` must outlive it.
  explicit LayerLoop(const LayerArguments& given, bool return_lse = false);

  const LayerWeights weights;
  const LayerSizes sizes;

  // The norm of the rows that were given, which the projections of `layer` read.
  void begin(int64_t layer);
  // Queries of the rows; their keys and values go into the layer's cache.
  void project(int64_t layer);
  // Of the last layer, these two compute the rows that are read.
  void attend(int64_t layer);
  void feed_forward(int64_t layer);
  bool narrows(int64_t layer) const { return given_.read_places.has_value() && layer + 1 == sizes.layers; }
  // What goes into the layer behind `layer`, and its norm.
  void advance(int64_t layer);
  // What comes out of `layer`, behind which nothing more is computed: all rows, those that the last layer did not
  // compute as they went in.
  const Tensor& finish(int64_t layer);

  const Tensor& q() const { return q_; }  // [R, H, D]
  // [R, H] fp32, log-sum-exp of the scores, where asked for and the layer does not narrow.
  const Tensor& lse() const { return lse_; }
  // Behind begin() and advance(): what goes into the layer.
  const Tensor& stream() const { return *stream_; }

 private:
  template <typename Params>
  void run(const char* name, const Params& params) const;
  void add_norm(const Tensor& norm_weight);
  // Projections of query heads, key-value heads or both.
  void rotate(const Tensor& projected, int64_t heads, int64_t kv_heads);
  void narrow();

  const LayerArguments& given_;
  const int64_t layer_bytes_;  // of a layer's keys
  // The residual stream: of this sum and of the one before.
  Tensor sums_[2];
  // While the last layer computes the rows that are read: what went into it, of all rows.
  Tensor unread_;
  Tensor normed_, branch_, qkv_, q_, read_q_, lse_, attended_, gate_up_, activation_;
  const Tensor* stream_;
  RmsNormParams norm_{};
  AddRmsNormParams add_norm_{};
  RopeScatterKvParams rope_{};
  AttentionParams attention_{};
  SwigluParams swiglu_{};
};

// A range around a layer.
class LayerRange {
 public:
  explicit LayerRange(int64_t layer) : range_(nvtx_enabled ? ("layer " + std::to_string(layer)).c_str() : "") {}

 private:
  const NvtxRange range_;
};

}  // namespace dlmcache::ops
