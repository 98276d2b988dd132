#include "cuda/swiglu.cuh"

#include "cuda/launch.cuh"
#include "dlmcache/dispatch.h"

namespace dlmcache::cuda {

const char* launch_swiglu(const SwigluParams& p, void* stream) {
  if (p.num_rows == 0 || p.width == 0) return nullptr;
  constexpr int64_t kThreads = 256;
  return dispatch_float(p.dtype, [&](auto tag) {
    using scalar_t = typename decltype(tag)::type;
    constexpr int64_t kSize = Vec<scalar_t>::kSize;
    const bool vectorised =
        p.width % kSize == 0 && aligned16<scalar_t>(p.gate_up, p.gate_up_stride) && aligned16<scalar_t>(p.out, 0);
    const int64_t items = p.width / (vectorised ? kSize : 1);
    const int64_t threads = items < kThreads ? (items + 31) / 32 * 32 : kThreads;
    const int64_t parts = (items + threads - 1) / threads;
    dim3 grid = grid_1d(p.num_rows);
    grid.y = static_cast<unsigned>(parts < 65535 ? parts : 65535);
    const auto kernel = vectorised ? swiglu_kernel<scalar_t, true> : swiglu_kernel<scalar_t, false>;
    return launch(kernel, grid, dim3(static_cast<unsigned>(threads)), 0, stream, p);
  });
}

}  // namespace dlmcache::cuda
