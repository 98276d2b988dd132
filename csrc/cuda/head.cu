#include "cuda/head.cuh"

#include "cuda/launch.cuh"
#include "dlmcache/dispatch.h"

namespace dlmcache::cuda {
namespace {

template <typename scalar_t, bool kVectorised, bool kExtras>
const char* launch_reduce(const VocabReduceParams& p, void* stream) {
  constexpr int kThreads = 256;
  const auto kernel = p.temperature > 0.0f ? vocab_reduce_kernel<scalar_t, kThreads, kVectorised, kExtras, true>
                                           : vocab_reduce_kernel<scalar_t, kThreads, kVectorised, kExtras, false>;
  return launch(kernel, grid_1d(p.num_rows * p.num_segments), dim3(kThreads), 0, stream, p);
}

}  // namespace

const char* launch_vocab_reduce(const VocabReduceParams& p, void* stream) {
  if (p.num_rows == 0) return nullptr;
  return dispatch_float(p.dtype, [&](auto tag) {
    using scalar_t = typename decltype(tag)::type;
    // Segments begin at multiples of 64 ids, so a row's alignment is that of each of its segments.
    const bool vectorised = aligned16<scalar_t>(p.logits, p.logits_stride);
    if (p.extras) {
      return vectorised ? launch_reduce<scalar_t, true, true>(p, stream)
                        : launch_reduce<scalar_t, false, true>(p, stream);
    }
    return vectorised ? launch_reduce<scalar_t, true, false>(p, stream)
                      : launch_reduce<scalar_t, false, false>(p, stream);
  });
}

const char* launch_vocab_finish(const VocabReduceParams& p, void* stream) {
  if (p.num_rows == 0) return nullptr;
  constexpr int kThreads = 128;
  constexpr int kRows = kThreads / 32;
  return launch(vocab_finish_kernel<kThreads>, grid_1d((p.num_rows + kRows - 1) / kRows), dim3(kThreads), 0, stream, p);
}

}  // namespace dlmcache::cuda
