#include "cuda/norm.cuh"

#include "cuda/launch.cuh"
#include "dlmcache/dispatch.h"

namespace dlmcache::cuda {

const char* launch_rms_norm(const RmsNormParams& p, void* stream) {
  if (p.num_rows == 0) return nullptr;
  constexpr int kThreads = 256;
  return dispatch_float(p.dtype, [&](auto tag) {
    using scalar_t = typename decltype(tag)::type;
    const bool vectorised = p.width % Vec<scalar_t>::kSize == 0 && aligned16<scalar_t>(p.x, p.x_stride) &&
                            aligned16<scalar_t>(p.weight, 0) && aligned16<scalar_t>(p.out, p.width);
    const auto kernel =
        vectorised ? rms_norm_kernel<scalar_t, kThreads, true> : rms_norm_kernel<scalar_t, kThreads, false>;
    return launch(kernel, grid_1d(p.num_rows), dim3(kThreads), 0, stream, p);
  });
}

const char* launch_add_rms_norm(const AddRmsNormParams& p, void* stream) {
  if (p.num_rows == 0) return nullptr;
  constexpr int kThreads = 256;
  return dispatch_float(p.dtype, [&](auto tag) {
    using scalar_t = typename decltype(tag)::type;
    const bool vectorised = p.width % Vec<scalar_t>::kSize == 0 && aligned16<scalar_t>(p.x, p.x_stride) &&
                            aligned16<scalar_t>(p.y, p.y_stride) && aligned16<scalar_t>(p.weight, 0) &&
                            aligned16<scalar_t>(p.sum, p.width) && aligned16<scalar_t>(p.normed, p.width);
    const auto kernel =
        vectorised ? add_rms_norm_kernel<scalar_t, kThreads, true> : add_rms_norm_kernel<scalar_t, kThreads, false>;
    return launch(kernel, grid_1d(p.num_rows), dim3(kThreads), 0, stream, p);
  });
}

}  // namespace dlmcache::cuda
