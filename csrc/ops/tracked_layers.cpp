// Layers whose most-attended rows are followed and tested, by one call up to the first test that fails (Elastic-Cache).
// On CPUs alone: whether a test failed must be known before the next layer begins.

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <optional>
#include <tuple>
#include <vector>

#include "ops/call.h"
#include "ops/check.h"
#include "ops/check_row_list.h"
#include "ops/layer_loop.h"
#include "ops/run.h"

namespace dlmcache::ops {
namespace {

constexpr const char* kOp = "track_layers_";

// A list of rows that lie in their own slots.
struct Listed {
  const Tensor& index;
  const Tensor& offsets;

  bool empty() const { return index.size(0) == 0; }
};

void check_list(const char* index_name, const char* offsets_name, const Listed& list, const Tensor& h,
                const LayerSizes& n) {
  check_index(kOp, index_name, list.index, -1, h, "h");
  check_index_range(kOp, index_name, list.index, n.cached);
  check_index(kOp, offsets_name, list.offsets, n.slots + 1, h, "h");
  check_cu_rows(kOp, list.offsets, list.index.size(0), offsets_name);
}

// The state that one call works on, and the parts of a layer that plain layers do not have.
class Follower {
 public:
  Follower(const LayerArguments& given, const LayerLoop& loop, const Tensor& inputs, const Tensor& found,
           const Listed& tracked, const Tensor& tested, double gamma, int64_t similarity, const Listed& window,
           const Listed& open, const Tensor& limits)
      : given_(given),
        loop_(loop),
        n_(loop.sizes),
        inputs_(inputs),
        found_(found),
        tracked_(tracked),
        tested_(static_cast<const bool*>(tested.data_ptr())),
        gamma_(gamma),
        similarity_(similarity),
        window_(window),
        open_(open),
        limits_(limits),
        scale_(std::pow(static_cast<double>(n_.head_size), -0.5)) {
    const int64_t* limit = static_cast<const int64_t*>(limits.data_ptr());
    for (int64_t slot = 0; slot < n_.slots; ++slot) {
      STD_TORCH_CHECK(limit[slot] >= 0, kOp, ": limits[", slot, "] is ", limit[slot], ", it must not be negative");
      most_found_ += limit[slot];
      tests_ = tests_ || tested_[slot];
    }
    if (tests_) tracked_places_ = places_of(tracked_.index);
    if (!window_.empty()) window_places_ = places_of(window_.index);
  }

  // Before the layer's inputs, keys and values are renewed: what the tracked rows saw last.
  void remember(int64_t layer) {
    const Tensor inputs = torch::stable::select(inputs_, 0, layer);
    if (tests_) {
      Tensor keys = keys_of(layer);
      const Tensor none = torch::stable::narrow(keys, 1, 0, 0);
      const auto [normed] = call<1>("dlmcache::rms_norm", inputs, loop_.weights.get(layer, kAttnNorm), given_.eps,
                                    std::optional(tracked_.index));
      const Tensor projected = loop_.weights.project(layer, normed, 0, n_.heads * n_.head_size);
      q_old_ = call<1>("dlmcache::rope_scatter_kv_", projected, given_.cos_sin, tracked_.index, n_.capacity, n_.heads,
                       none, none)[0];
      // Only the keys that the layer overwrites: the rest of the cache is old and new at once.
      k_old_ = call<1>("dlmcache::gather_rows", keys, given_.row_index)[0];
    }
    call<0>("dlmcache::scatter_rows_", inputs, loop_.stream(), given_.row_index);
  }

  // Writes what the tests of the layer measured, [slots]; whether one failed.
  bool test(int64_t layer, float* similarities) {
    if (!tests_) return false;
    const auto [q_new] = call<1>("dlmcache::gather_rows", loop_.q(), tracked_places_);
    const auto [alike] =
        call<1>("dlmcache::tracked_similarity", q_old_, q_new, keys_of(layer), k_old_, given_.row_index, given_.cu_rows,
                tracked_.offsets, given_.kv_lens, n_.capacity, scale_, similarity_);
    const float* value = static_cast<const float*>(alike.data_ptr());
    bool failed = false;
    for (int64_t slot = 0; slot < n_.slots; ++slot) {
      if (!tested_[slot]) continue;
      similarities[slot] = value[slot];
      failed = failed || static_cast<double>(value[slot]) < gamma_;
    }
    return failed;
  }

  // Marks the rows that the window's queries attend to most.
  void follow(int64_t layer) {
    if (window_.empty()) return;
    const auto [q] = call<1>("dlmcache::gather_rows", loop_.q(), window_places_);
    std::optional<Tensor> lse;  // not known of all rows where the layer narrows
    if (!loop_.narrows(layer)) lse = call<1>("dlmcache::gather_rows", loop_.lse(), window_places_)[0];
    const auto [mass] = call<1>("dlmcache::attention_mass", q, keys_of(layer), window_.offsets, given_.kv_lens,
                                n_.capacity, scale_, lse, std::optional<Tensor>());
    const auto [score] = call<1>("dlmcache::gather_rows", mass, open_.index);
    const auto [selected, places, offsets] =
        call<3>("dlmcache::select_rows", score, open_.index, open_.offsets, limits_, most_found_, true);
    const int64_t* row = static_cast<const int64_t*>(selected.data_ptr());
    bool* found = static_cast<bool*>(found_.data_ptr()) + layer * found_.stride(0);
    for (int64_t i = 0; i < most_found_; ++i) {
      if (row[i] >= 0) found[row[i]] = true;
    }
  }

 private:
  Tensor keys_of(int64_t layer) const { return torch::stable::select(given_.k_cache, 0, layer); }
  Tensor places_of(const Tensor& listed) const {
    return call<1>("dlmcache::find_rows", given_.row_index, given_.cu_rows, listed, n_.capacity)[0];
  }

  const LayerArguments& given_;
  const LayerLoop& loop_;
  const LayerSizes& n_;
  const Tensor& inputs_;
  const Tensor& found_;
  const Listed tracked_;
  const bool* tested_;
  const double gamma_;
  const int64_t similarity_;
  const Listed window_, open_;
  const Tensor& limits_;
  const double scale_;
  int64_t most_found_ = 0;
  bool tests_ = false;
  Tensor tracked_places_, window_places_, q_old_, k_old_;
};

std::tuple<Tensor, Tensor> track_layers_(
    const Tensor& h, const std::vector<Tensor>& weights, const std::vector<Tensor>& biases, const Tensor& cos_sin,
    const Tensor& row_index, const Tensor& cu_rows, const Tensor& kv_lens, int64_t num_heads, double eps,
    const Tensor& k_cache, const Tensor& v_cache, int64_t first_layer, const Tensor& inputs, const Tensor& found,
    const Tensor& tracked_index, const Tensor& cu_tracked, const Tensor& tested, double gamma, int64_t similarity,
    const Tensor& window_index, const Tensor& cu_window, const Tensor& open_index, const Tensor& cu_open,
    const Tensor& limits, const std::optional<Tensor>& read_places, const std::optional<Tensor>& cu_read) {
  const Tensor entered = contiguous_rows(kOp, h);
  const LayerArguments given{kOp,     entered,   weights, biases,  cos_sin, row_index,   cu_rows,
                             kv_lens, num_heads, eps,     k_cache, v_cache, read_places, cu_read};
  LayerLoop loop(given, true);
  const LayerSizes& n = loop.sizes;
  STD_TORCH_CHECK(first_layer >= 0 && first_layer < n.layers, kOp, ": first_layer is ", first_layer,
                  ", allowed are 0 to ", n.layers - 1);
  check_shape(kOp, "inputs", inputs, {n.layers, n.cached, n.width});
  check_shape(kOp, "found", found, {n.layers, n.cached});
  check_shape(kOp, "tested", tested, {n.slots});
  STD_TORCH_CHECK(similarity == 0 || similarity == 1, kOp, ": similarity must be 0 (heads) or 1 (rows), got ",
                  similarity);
  check_dtype(kOp, "inputs", inputs, h.scalar_type());
  check_dtype(kOp, "found", found, ScalarType::Bool);
  check_dtype(kOp, "tested", tested, ScalarType::Bool);
  check_contiguous(kOp, "inputs", inputs);
  check_row_contiguous(kOp, "found", found);
  check_contiguous(kOp, "tested", tested);
  check_listed_rows(kOp, row_index, cu_rows, n.capacity);
  const Listed tracked{tracked_index, cu_tracked}, window{window_index, cu_window}, open{open_index, cu_open};
  check_list("tracked_index", "cu_tracked", tracked, h, n);
  check_list("window_index", "cu_window", window, h, n);
  check_list("open_index", "cu_open", open, h, n);
  check_index(kOp, "limits", limits, n.slots, h, "h");
  loop.weights.check_cut(n.heads * n.head_size);

  Tensor similarities = torch::stable::new_empty(h, {n.layers, n.slots}, ScalarType::Float);
  float* measured = static_cast<float*>(similarities.data_ptr());
  std::fill(measured, measured + n.layers * n.slots, std::numeric_limits<float>::infinity());
  Follower follower(given, loop, inputs, found, tracked, tested, gamma, similarity, window, open, limits);
  loop.begin(first_layer);
  bool failed = false;
  int64_t next = first_layer;
  while (next < n.layers && !failed) {
    const int64_t layer = next++;
    const LayerRange range(layer);
    if (layer > first_layer) loop.advance(layer - 1);
    follower.remember(layer);
    loop.project(layer);
    loop.attend(layer);
    failed = follower.test(layer, measured + layer * n.slots);
    follower.follow(layer);
    loop.feed_forward(layer);
  }
  return {loop.finish(next - 1), similarities};
}

STABLE_TORCH_LIBRARY_IMPL(dlmcache, CPU, m) { DLMCACHE_IMPL(m, "track_layers_", track_layers_); }
// Where a matrix is packed.
STABLE_TORCH_LIBRARY_IMPL(dlmcache, MkldnnCPU, m) { DLMCACHE_IMPL(m, "track_layers_", track_layers_); }

}  // namespace
}  // namespace dlmcache::ops
