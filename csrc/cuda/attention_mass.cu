#include "cuda/attention_mass.cuh"

#include <type_traits>

#include "cuda/launch.cuh"
#include "dlmcache/dispatch.h"

namespace dlmcache::cuda {
namespace {

// body(scalar type, head size): a head size between two of these is padded with zeros in shared memory.
template <typename Body>
const char* dispatch_head_size(const AttentionMassParams& p, Body&& body) {
  if (p.head_size > kMaxAttentionHeadSize) return "the head size is larger than the kernels support";
  if (p.num_rows * (p.num_heads / p.num_kv_heads) > (int64_t{1} << 30)) return "there are more rows than a grid holds";
  return dispatch_float(p.dtype, [&](auto tag) {
    return p.head_size <= 32    ? body(tag, std::integral_constant<int, 32>{})
           : p.head_size <= 64  ? body(tag, std::integral_constant<int, 64>{})
           : p.head_size <= 128 ? body(tag, std::integral_constant<int, 128>{})
                                : body(tag, std::integral_constant<int, 256>{});
  });
}

template <typename scalar_t>
bool vectorised_keys(const AttentionMassParams& p) {
  return p.head_size % Vec<scalar_t>::kSize == 0 && aligned16<scalar_t>(p.k, 0);
}

}  // namespace

const char* launch_attention_mass_lse(const AttentionMassParams& p, void* stream) {
  if (p.num_rows == 0 || p.num_heads == 0 || p.max_splits == 0) return nullptr;
  const char* error = dispatch_head_size(p, [&](auto tag, auto size) {
    using scalar_t = typename decltype(tag)::type;
    constexpr int kHeadSize = size.value;
    // Upper bound on the tiles: each slot, and the unused rows, may have one that is not full.
    dim3 grid = grid_1d(p.num_rows * (p.num_heads / p.num_kv_heads) / kMassRows + p.num_slots + 1);
    grid.y = p.num_kv_heads <= 65535 ? static_cast<unsigned>(p.num_kv_heads) : 0u;
    grid.z = static_cast<unsigned>(p.max_splits);
    return launch(attention_lse_kernel<scalar_t, kHeadSize>, grid, dim3(kAttentionThreads),
                  MassShape<scalar_t, kHeadSize>::kSharedBytes, stream, p, vectorised_keys<scalar_t>(p));
  });
  if (error != nullptr) return error;
  const int64_t blocks = (p.num_rows * p.num_heads + kAttentionThreads - 1) / kAttentionThreads;
  return launch(attention_lse_merge_kernel, grid_1d(blocks), dim3(kAttentionThreads), 0, stream, p);
}

const char* launch_attention_mass(const AttentionMassParams& p, void* stream) {
  const int64_t positions = p.num_slots * p.capacity;
  if (positions == 0) return nullptr;
  const char* error = dispatch_head_size(p, [&](auto tag, auto size) {
    using scalar_t = typename decltype(tag)::type;
    constexpr int kHeadSize = size.value;
    dim3 grid = grid_1d(p.num_slots * ((p.capacity + kAttentionKeys - 1) / kAttentionKeys));
    grid.y = p.num_kv_heads <= 65535 ? static_cast<unsigned>(p.num_kv_heads) : 0u;
    return launch(attention_mass_kernel<scalar_t, kHeadSize>, grid, dim3(kAttentionThreads),
                  MassShape<scalar_t, kHeadSize>::kSharedBytes, stream, p, vectorised_keys<scalar_t>(p));
  });
  if (error != nullptr) return error;
  const int64_t blocks = (positions + kMassFinishThreads - 1) / kMassFinishThreads;
  return launch(attention_mass_finish_kernel, grid_1d(blocks), dim3(kMassFinishThreads), 0, stream, p);
}

}  // namespace dlmcache::cuda
