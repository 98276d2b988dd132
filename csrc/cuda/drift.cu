#include "cuda/drift.cuh"

#include "cuda/launch.cuh"
#include "dlmcache/dispatch.h"

namespace dlmcache::cuda {

const char* launch_cosine_drift(const CosineDriftParams& p, void* stream) {
  if (p.num_rows == 0) return nullptr;
  constexpr int kThreads = 256;
  constexpr int64_t kBytesOfAWarp = 2048;  // up to four vectors per lane
  return dispatch_float(p.dtype, [&](auto tag) {
    using scalar_t = typename decltype(tag)::type;
    const bool vectorised = p.width % Vec<scalar_t>::kSize == 0 && aligned16<scalar_t>(p.signal, p.signal_stride) &&
                            aligned16<scalar_t>(p.reference, p.width);
    if (p.width * static_cast<int64_t>(sizeof(scalar_t)) <= kBytesOfAWarp) {
      constexpr int kRows = kThreads / 32;
      const auto kernel = vectorised ? cosine_drift_kernel<scalar_t, kThreads, 32, true>
                                     : cosine_drift_kernel<scalar_t, kThreads, 32, false>;
      return launch(kernel, grid_1d((p.num_rows + kRows - 1) / kRows), dim3(kThreads), 0, stream, p);
    }
    const auto kernel = vectorised ? cosine_drift_kernel<scalar_t, kThreads, kThreads, true>
                                   : cosine_drift_kernel<scalar_t, kThreads, kThreads, false>;
    return launch(kernel, grid_1d(p.num_rows), dim3(kThreads), 0, stream, p);
  });
}

}  // namespace dlmcache::cuda
