#include "cuda/tracked_drift.cuh"

#include "cuda/launch.cuh"
#include "dlmcache/dispatch.h"

namespace dlmcache::cuda {
namespace {

template <typename scalar_t, int kCount>
const char* launch_passes(const TrackedParams& p, void* stream) {
  dim3 grid(static_cast<unsigned>(p.max_splits));
  grid.y = p.num_slots <= 65535 ? static_cast<unsigned>(p.num_slots) : 0u;
  const size_t key_bytes = tracked_splits(p.capacity).keys * sizeof(int);
  const size_t lse_bytes = 2 * p.num_heads * sizeof(float);
  const dim3 block(kTrackedThreads);
  if (const char* error = launch(tracked_stats_kernel<scalar_t, kCount>, grid, block, key_bytes, stream, p)) {
    return error;
  }
  return launch(tracked_products_kernel<scalar_t, kCount>, grid, block, lse_bytes + key_bytes, stream, p);
}

}  // namespace

const char* launch_tracked_similarity(const TrackedParams& p, void* stream) {
  if (p.num_slots == 0) return nullptr;
  if (p.num_tracked > 0 && p.max_splits > 0) {
    const char* error = dispatch_float(p.dtype, [&](auto tag) {
      using scalar_t = typename decltype(tag)::type;
      constexpr int kSize = Vec<scalar_t>::kSize;
      const bool vectorised = p.head_size % kSize == 0 && aligned16<scalar_t>(p.k, 0) &&
                              aligned16<scalar_t>(p.k_old, 0) && aligned16<scalar_t>(p.q_old, 0) &&
                              aligned16<scalar_t>(p.q_new, 0);
      return vectorised ? launch_passes<scalar_t, kSize>(p, stream) : launch_passes<scalar_t, 1>(p, stream);
    });
    if (error != nullptr) return error;
  }
  return launch(tracked_finish_kernel, grid_1d(p.num_slots), dim3(kTrackedThreads), 0, stream, p);
}

}  // namespace dlmcache::cuda
