#include "dlmcache/delta.h"

#include <torch/csrc/stable/library.h>

#include <optional>
#include <tuple>

#include "ops/check.h"
#include "ops/run.h"

namespace dlmcache::ops {
namespace {

constexpr const char* kOp = "delta_update_";

// On a CPU: places must ascend, with unused entries at the end only, because rows are looked up by bisection.
void check_places(const Tensor& places, int64_t num_rows) {
  if (!places.is_cpu()) return;
  check_index_range(kOp, "places", places, num_rows);
  const int64_t* place = static_cast<const int64_t*>(places.data_ptr());
  const int64_t count = places.numel();
  for (int64_t i = 1; i < count; ++i) {
    STD_TORCH_CHECK(place[i] < 0 || (place[i - 1] >= 0 && place[i - 1] < place[i]), kOp, ": places must ascend, but ",
                    "places[", i, "] is ", place[i], " behind ", place[i - 1]);
  }
}

template <typename Run>
std::tuple<Tensor, Tensor> delta_update_(const Tensor& delta, const Tensor& h, const Tensor& row_index,
                                         const Tensor& attn_out, const Tensor& ff_out, const Tensor& places,
                                         const std::optional<Tensor>& norm_weight, double eps, bool absolute,
                                         Run&& run) {
  check_shape(kOp, "h", h, {-1, -1});
  const int64_t num_rows = h.size(0), width = h.size(1);
  check_shape(kOp, "delta", delta, {-1, width});
  check_shape(kOp, "attn_out", attn_out, {-1, width});
  const int64_t num_computed = attn_out.size(0);
  check_shape(kOp, "ff_out", ff_out, {num_computed, width});
  if (norm_weight) check_shape(kOp, "norm_weight", *norm_weight, {width});
  DeltaUpdateParams p{};
  p.dtype = check_float(kOp, "h", h);
  check_dtype(kOp, "delta", delta, h.scalar_type());
  check_dtype(kOp, "attn_out", attn_out, h.scalar_type());
  check_dtype(kOp, "ff_out", ff_out, h.scalar_type());
  if (norm_weight) check_dtype(kOp, "norm_weight", *norm_weight, h.scalar_type());
  check_same_device(kOp, "delta", delta, h, "h");
  check_same_device(kOp, "attn_out", attn_out, h, "h");
  check_same_device(kOp, "ff_out", ff_out, h, "h");
  if (norm_weight) check_same_device(kOp, "norm_weight", *norm_weight, h, "h");
  p.row_index = check_index(kOp, "row_index", row_index, num_rows, h, "h");
  p.places = check_index(kOp, "places", places, num_computed, h, "h");
  check_contiguous(kOp, "delta", delta);
  check_row_contiguous(kOp, "h", h);
  check_row_contiguous(kOp, "attn_out", attn_out);
  check_row_contiguous(kOp, "ff_out", ff_out);
  if (norm_weight) check_contiguous(kOp, "norm_weight", *norm_weight);
  check_index_range(kOp, "row_index", row_index, delta.size(0));
  check_places(places, num_rows);

  Tensor h_next = torch::stable::new_empty(h, {num_rows, width});
  Tensor normed = norm_weight ? torch::stable::new_empty(h, {num_rows, width}) : torch::stable::new_empty(h, {0});
  p.num_rows = num_rows;
  p.num_computed = num_computed;
  p.width = width;
  p.absolute = absolute;
  p.eps = static_cast<float>(eps);
  p.delta = delta.data_ptr();
  p.h = h.data_ptr();
  p.h_stride = h.stride(0);
  p.attn_out = attn_out.data_ptr();
  p.attn_stride = attn_out.stride(0);
  p.ff_out = ff_out.data_ptr();
  p.ff_stride = ff_out.stride(0);
  p.norm_weight = norm_weight ? norm_weight->data_ptr() : nullptr;
  p.h_next = h_next.data_ptr();
  p.normed = normed.data_ptr();
  run(p);
  return {h_next, normed};
}

std::tuple<Tensor, Tensor> delta_update_cpu(Tensor delta, const Tensor& h, const Tensor& row_index,
                                            const Tensor& attn_out, const Tensor& ff_out, const Tensor& places,
                                            std::optional<Tensor> norm_weight, double eps, bool absolute) {
  return delta_update_(delta, h, row_index, attn_out, ff_out, places, norm_weight, eps, absolute,
                       [](const DeltaUpdateParams& p) {
                         const int64_t cost = (p.norm_weight ? 8 : 4) * p.width;
                         run_cpu(cpu::delta_update_rows, p, p.num_rows, cost);
                       });
}

STABLE_TORCH_LIBRARY_IMPL(dlmcache, CPU, m) { DLMCACHE_IMPL(m, "delta_update_", delta_update_cpu); }

#ifdef DLMCACHE_WITH_CUDA
std::tuple<Tensor, Tensor> delta_update_cuda(Tensor delta, const Tensor& h, const Tensor& row_index,
                                             const Tensor& attn_out, const Tensor& ff_out, const Tensor& places,
                                             std::optional<Tensor> norm_weight, double eps, bool absolute) {
  return delta_update_(delta, h, row_index, attn_out, ff_out, places, norm_weight, eps, absolute,
                       [&](const DeltaUpdateParams& p) { run_cuda(kOp, cuda::launch_delta_update, p, h); });
}

STABLE_TORCH_LIBRARY_IMPL(dlmcache, CUDA, m) { DLMCACHE_IMPL(m, "delta_update_", delta_update_cuda); }
#endif

}  // namespace
}  // namespace dlmcache::ops
