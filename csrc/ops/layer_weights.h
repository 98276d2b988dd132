// The weights of all layers as the operators that take rows through several layers are given them.
#pragma once

#include <torch/csrc/stable/tensor.h>

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace dlmcache::ops {

using torch::stable::Tensor;

// What `weights` holds of every layer: the attention norm, the stacked projections in one part or more, then the others
// in this order.
enum LayerWeight { kAttnNorm, kAttnOut, kFfNorm, kGateUp, kFfOut, kWeightsBesideParts };

class LayerWeights {
 public:
  // Checks how many there are. Both lists must outlive it.
  LayerWeights(const char* op, const std::vector<Tensor>& weights, const std::vector<Tensor>& biases, int64_t layers);

  // Their shapes for rows of `like`, and that `projections` rows stand in the parts of each layer.
  void check(const Tensor& like, int64_t projections, int64_t attended, int64_t inner) const;
  // That a product may begin or end at this row of the stacked projections: packed parts are not divided.
  void check_cut(int64_t row) const;

  int64_t parts() const { return parts_; }
  // Whether a part ends at this row of the stacked projections.
  bool cut_at(int64_t row) const;
  const Tensor& get(int64_t layer, LayerWeight which) const;
  // "weights[i]"
  std::string name(int64_t layer, LayerWeight which) const;

  // x [R, W] by rows [begin, end) of the stacked projections.
  Tensor project(int64_t layer, const Tensor& x, int64_t begin, int64_t end) const;
  // The same in two parts, by one product where that is possible.
  std::array<Tensor, 2> project(int64_t layer, const Tensor& x, int64_t begin, int64_t middle, int64_t end) const;
  // x by all of them, into `out`, which may be replaced.
  void project_all(int64_t layer, const Tensor& x, Tensor& out) const;

 private:
  int64_t first(int64_t layer) const { return layer * (kWeightsBesideParts + parts_); }
  int64_t place(int64_t layer, LayerWeight which) const {
    return first(layer) + (which == kAttnNorm ? 0 : which + parts_);
  }
  const Tensor& part(int64_t layer, int64_t number) const { return weights_[first(layer) + 1 + number]; }
  std::optional<Tensor> bias(int64_t layer, int64_t number) const;

  const char* op_;
  const std::vector<Tensor>&weights_, &biases_;
  int64_t layers_, parts_;
};

}  // namespace dlmcache::ops
