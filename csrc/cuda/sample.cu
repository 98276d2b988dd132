#include "cuda/sample.cuh"

#include "cuda/launch.cuh"
#include "dlmcache/dispatch.h"

namespace dlmcache::cuda {

const char* launch_filter_logits(const FilterParams& p, void* stream) {
  if (p.num_rows == 0) return nullptr;
  constexpr int kThreads = 512;
  return dispatch_float(p.dtype, [&](auto tag) {
    using scalar_t = typename decltype(tag)::type;
    return launch(filter_logits_kernel<scalar_t, kThreads>, grid_1d(p.num_rows), dim3(kThreads), 0, stream, p);
  });
}

const char* launch_sample_finish(const SampleFinishParams& p, void* stream) {
  if (p.num_rows == 0) return nullptr;
  constexpr int kThreads = 128;
  constexpr int kRows = kThreads / 32;
  return launch(sample_finish_kernel<kThreads>, grid_1d((p.num_rows + kRows - 1) / kRows), dim3(kThreads), 0, stream,
                p);
}

}  // namespace dlmcache::cuda
