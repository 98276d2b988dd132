#include "cuda/rope_cache.cuh"

#include "cuda/launch.cuh"
#include "dlmcache/dispatch.h"

namespace dlmcache::cuda {

const char* launch_rope_scatter_kv(const RopeScatterKvParams& p, void* stream) {
  const int64_t width = (p.num_heads + 2 * p.num_kv_heads) * p.head_dim;
  if (p.num_rows == 0 || width == 0) return nullptr;
  if (width > INT32_MAX / 2) return "a row has more elements than the kernel counts";
  constexpr int64_t kThreads = 256;
  return dispatch_float(p.dtype, [&](auto tag) {
    using scalar_t = typename decltype(tag)::type;
    constexpr int64_t kSize = Vec<scalar_t>::kSize;
    const int64_t half = p.head_dim / 2;
    // With whole vectors in half a head every address below is aligned when the first one of its tensor is.
    const bool vectorised = half % kSize == 0 && aligned16<scalar_t>(p.qkv, p.qkv_stride) &&
                            aligned16<float>(p.cos_sin, 0) && aligned16<scalar_t>(p.k_cache, 0) &&
                            aligned16<scalar_t>(p.v_cache, 0) && aligned16<scalar_t>(p.q, 0);
    const int64_t items =
        ((p.num_heads + p.num_kv_heads) * half + p.num_kv_heads * p.head_dim) / (vectorised ? kSize : 1);
    const int64_t threads = items < kThreads ? (items + 31) / 32 * 32 : kThreads;
    const int64_t parts = (items + threads - 1) / threads;
    dim3 grid = grid_1d(p.num_rows);
    grid.y = static_cast<unsigned>(parts < 65535 ? parts : 65535);
    const auto kernel = vectorised ? rope_scatter_kv_kernel<scalar_t, true> : rope_scatter_kv_kernel<scalar_t, false>;
    return launch(kernel, grid, dim3(static_cast<unsigned>(threads)), 0, stream, p);
  });
}

}  // namespace dlmcache::cuda
