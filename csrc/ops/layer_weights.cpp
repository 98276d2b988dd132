#include "ops/layer_weights.h"

#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <initializer_list>
#include <string>

#include "ops/check.h"
#include "ops/matmul.h"

namespace dlmcache::ops {
namespace {

Tensor slice(Tensor tensor, int64_t dim, int64_t begin, int64_t end) {
  return begin == 0 && end == tensor.size(dim) ? tensor : torch::stable::narrow(tensor, dim, begin, end - begin);
}

}  // namespace

LayerWeights::LayerWeights(const char* op, const std::vector<Tensor>& weights, const std::vector<Tensor>& biases,
                           int64_t layers)
    : op_(op), weights_(weights), biases_(biases), layers_(layers) {
  const int64_t given = static_cast<int64_t>(weights.size());
  const int64_t each = layers > 0 && given % layers == 0 ? given / layers : 0;
  STD_TORCH_CHECK(each > kWeightsBesideParts, op, ": weights must be six tensors or more for each of the ", layers,
                  " layers of k_cache, as many for all, got ", given);
  parts_ = each - kWeightsBesideParts;
  STD_TORCH_CHECK(biases.empty() || static_cast<int64_t>(biases.size()) == layers * parts_, op,
                  ": biases must be empty or ", parts_, " for each of the ", layers, " layers of k_cache, got ",
                  biases.size());
}

void LayerWeights::check(const Tensor& like, int64_t projections, int64_t attended, int64_t inner) const {
  const int64_t width = like.size(1);
  const auto check_one = [&](const std::string& name, const Tensor& tensor, std::initializer_list<int64_t> shape) {
    check_shape(op_, name.c_str(), tensor, shape);
    check_dtype(op_, name.c_str(), tensor, like.scalar_type());
    check_same_device(op_, name.c_str(), tensor, like, "h");
  };
  const auto part_name = [&](int64_t layer, int64_t number) {
    return "weights[" + std::to_string(first(layer) + 1 + number) + "]";
  };
  for (int64_t layer = 0; layer < layers_; ++layer) {
    const auto check_weight = [&](LayerWeight which, std::initializer_list<int64_t> shape) {
      check_one(name(layer, which), get(layer, which), shape);
    };
    for (const LayerWeight norm : {kAttnNorm, kFfNorm}) {
      check_weight(norm, {width});
      check_contiguous(op_, name(layer, norm).c_str(), get(layer, norm));
    }
    check_weight(kAttnOut, {width, attended});
    check_weight(kGateUp, {2 * inner, width});
    check_weight(kFfOut, {width, inner});
    int64_t rows = 0;
    for (int64_t p = 0; p < parts_; ++p) {
      const int64_t allowed = parts_ == 1 ? projections : layer > 0 ? part(0, p).size(0) : -1;
      check_one(part_name(layer, p), part(layer, p), {allowed, width});
      rows += part(layer, p).size(0);
    }
    STD_TORCH_CHECK(rows == projections, op_, ": ", part_name(layer, 0), " to ", part_name(layer, parts_ - 1),
                    " must have ", projections, " rows together, got ", rows);
  }
  for (int64_t i = 0; i < static_cast<int64_t>(biases_.size()); ++i) {
    check_one("biases[" + std::to_string(i) + "]", biases_[i], {part(0, i % parts_).size(0)});
  }
}

void LayerWeights::check_cut(int64_t row) const {
  int64_t end = 0;
  for (int64_t p = 0; p < parts_; ++p) {
    const int64_t begin = end;
    end += part(0, p).size(0);
    STD_TORCH_CHECK(row <= begin || row >= end || !is_packed(part(0, p)), op_, ": weights[", 1 + p,
                    "] is packed and has the rows ", begin, " to ", end - 1,
                    " of the projections; it must be divided at row ", row);
  }
}

bool LayerWeights::cut_at(int64_t row) const {
  int64_t end = 0;
  for (int64_t p = 0; p < parts_ && end < row; ++p) end += part(0, p).size(0);
  return end == row;
}

const Tensor& LayerWeights::get(int64_t layer, LayerWeight which) const { return weights_[place(layer, which)]; }

std::string LayerWeights::name(int64_t layer, LayerWeight which) const {
  return "weights[" + std::to_string(place(layer, which)) + "]";
}

std::optional<Tensor> LayerWeights::bias(int64_t layer, int64_t number) const {
  return biases_.empty() ? std::nullopt : std::optional(biases_[layer * parts_ + number]);
}

Tensor LayerWeights::project(int64_t layer, const Tensor& x, int64_t begin, int64_t end) const {
  std::vector<Tensor> products;
  int64_t last = 0;
  for (int64_t p = 0; p < parts_; ++p) {
    const Tensor& weight = part(layer, p);
    const int64_t first = last;
    last += weight.size(0);
    const int64_t from = std::max(begin, first) - first, to = std::min(end, last) - first;
    if (from >= to) continue;
    std::optional<Tensor> added = bias(layer, p);
    if (added) added = slice(*added, 0, from, to);
    products.push_back(linear(x, slice(weight, 0, from, to), added));
  }
  return products.size() == 1 ? products[0] : call<1>("aten::cat", products, int64_t{1})[0];
}

std::array<Tensor, 2> LayerWeights::project(int64_t layer, const Tensor& x, int64_t begin, int64_t middle,
                                            int64_t end) const {
  if (parts_ > 1) return {project(layer, x, begin, middle), project(layer, x, middle, end)};
  const Tensor both = project(layer, x, begin, end);
  return {slice(both, 1, 0, middle - begin), slice(both, 1, middle - begin, end - begin)};
}

void LayerWeights::project_all(int64_t layer, const Tensor& x, Tensor& out) const {
  if (parts_ == 1) return multiply(x, part(layer, 0), bias(layer, 0), out);
  int64_t rows = 0;
  for (int64_t p = 0; p < parts_; ++p) rows += part(layer, p).size(0);
  out = project(layer, x, 0, rows);
}

}  // namespace dlmcache::ops
