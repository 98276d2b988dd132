// All layers of a step by one call. With a small model, starting the operators of every layer from Python costs as much
// as what they compute.

#include <torch/csrc/stable/library.h>

#include <optional>
#include <vector>

#include "ops/layer_loop.h"
#include "ops/run.h"

namespace dlmcache::ops {
namespace {

Tensor forward_layers_(const Tensor& h, const std::vector<Tensor>& weights, const std::vector<Tensor>& biases,
                       const Tensor& cos_sin, const Tensor& row_index, const Tensor& cu_rows, const Tensor& kv_lens,
                       int64_t num_heads, double eps, const Tensor& k_cache, const Tensor& v_cache,
                       const std::optional<Tensor>& read_places, const std::optional<Tensor>& cu_read) {
  const LayerArguments given{"forward_layers_", h,         weights, biases,  cos_sin, row_index,   cu_rows,
                             kv_lens,           num_heads, eps,     k_cache, v_cache, read_places, cu_read};
  LayerLoop loop(given);
  loop.begin(0);
  for (int64_t layer = 0; layer < loop.sizes.layers; ++layer) {
    const LayerRange range(layer);
    if (layer > 0) loop.advance(layer - 1);
    loop.project(layer);
    loop.attend(layer);
    loop.feed_forward(layer);
  }
  return loop.finish(loop.sizes.layers - 1);
}

STABLE_TORCH_LIBRARY_IMPL(dlmcache, CPU, m) { DLMCACHE_IMPL(m, "forward_layers_", forward_layers_); }
// Where a matrix is packed.
STABLE_TORCH_LIBRARY_IMPL(dlmcache, MkldnnCPU, m) { DLMCACHE_IMPL(m, "forward_layers_", forward_layers_); }

#ifdef DLMCACHE_WITH_CUDA
STABLE_TORCH_LIBRARY_IMPL(dlmcache, CUDA, m) { DLMCACHE_IMPL(m, "forward_layers_", forward_layers_); }
#endif

}  // namespace
}  // namespace dlmcache::ops
