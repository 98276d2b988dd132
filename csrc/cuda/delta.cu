#include "cuda/delta.cuh"

#include "cuda/launch.cuh"
#include "dlmcache/dispatch.h"

namespace dlmcache::cuda {

const char* launch_delta_update(const DeltaUpdateParams& p, void* stream) {
  if (p.num_rows == 0) return nullptr;
  constexpr int kThreads = 256;
  return dispatch_float(p.dtype, [&](auto tag) {
    using scalar_t = typename decltype(tag)::type;
    const bool vectorised = p.width % Vec<scalar_t>::kSize == 0 && aligned16<scalar_t>(p.delta, 0) &&
                            aligned16<scalar_t>(p.h, p.h_stride) && aligned16<scalar_t>(p.attn_out, p.attn_stride) &&
                            aligned16<scalar_t>(p.ff_out, p.ff_stride) && aligned16<scalar_t>(p.norm_weight, 0) &&
                            aligned16<scalar_t>(p.h_next, 0) && aligned16<scalar_t>(p.normed, 0);
    const auto kernel =
        vectorised ? delta_update_kernel<scalar_t, kThreads, true> : delta_update_kernel<scalar_t, kThreads, false>;
    return launch(kernel, grid_1d(p.num_rows), dim3(kThreads), 0, stream, p);
  });
}

}  // namespace dlmcache::cuda
