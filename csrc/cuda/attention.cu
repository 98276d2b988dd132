#include "cuda/attention.cuh"

#include "cuda/launch.cuh"
#include "dlmcache/dispatch.h"

namespace dlmcache::cuda {
namespace {

// Rows of a tile per warp: small tiles when a slot has few packed rows on average.
int rows_per_warp(const AttentionParams& p) {
  if (p.head_size <= 32) return 4;  // little work per row: more blocks rather than larger ones
  if (p.head_size > 128) return 4;  // eight rows of 256 columns do not fit into the registers
  const int64_t slots = p.num_slots > 0 ? p.num_slots : 1;
  const int64_t packed = (p.num_rows + slots - 1) / slots * (p.num_heads / p.num_kv_heads);
  return packed <= 4 * kAttentionWarps ? 4 : 8;
}

// Upper bound on the tiles of a key/value head: each slot, and the unused rows, may have one that is not full.
int64_t num_tiles(const AttentionParams& p) {
  const int64_t rows = kAttentionWarps * rows_per_warp(p);
  return p.num_rows * (p.num_heads / p.num_kv_heads) / rows + p.num_slots + 1;
}

template <typename scalar_t, int kHeadSize, int kRowsPerWarp>
const char* launch_tiles(const AttentionParams& p, void* stream) {
  dim3 grid = grid_1d(num_tiles(p));
  grid.y = p.num_kv_heads <= 65535 ? static_cast<unsigned>(p.num_kv_heads) : 0u;
  grid.z = p.max_splits > 0 ? static_cast<unsigned>(p.max_splits) : 1u;
  const bool vectorised =
      p.head_size % Vec<scalar_t>::kSize == 0 && aligned16<scalar_t>(p.k, 0) && aligned16<scalar_t>(p.v, 0);
  return launch(attention_kernel<scalar_t, kHeadSize, kRowsPerWarp>, grid, dim3(kAttentionThreads),
                AttentionShape<scalar_t, kHeadSize, kRowsPerWarp>::kSharedBytes, stream, p, vectorised);
}

template <typename scalar_t, int kHeadSize>
const char* launch_head_size(const AttentionParams& p, void* stream) {
  return rows_per_warp(p) == 4 ? launch_tiles<scalar_t, kHeadSize, 4>(p, stream)
                               : launch_tiles<scalar_t, kHeadSize, 8>(p, stream);
}

template <typename scalar_t>
const char* launch_both(const AttentionParams& p, void* stream) {
  // A head size between two of these is padded with zeros in shared memory.
  const char* error = p.head_size <= 32    ? launch_tiles<scalar_t, 32, 4>(p, stream)
                      : p.head_size <= 64  ? launch_head_size<scalar_t, 64>(p, stream)
                      : p.head_size <= 128 ? launch_head_size<scalar_t, 128>(p, stream)
                                           : launch_tiles<scalar_t, 256, 4>(p, stream);
  if (error != nullptr || p.max_splits == 0) return error;
  const int64_t blocks = (p.num_rows * p.num_heads + kAttentionWarps - 1) / kAttentionWarps;
  return launch(attention_merge_kernel<scalar_t>, grid_1d(blocks), dim3(kAttentionThreads), 0, stream, p);
}

}  // namespace

int64_t attention_max_splits(const AttentionParams& p) {
  // Two blocks per multiprocessor of a large GPU keep it busy without cutting the keys.
  constexpr int64_t kEnoughBlocks = 264;
  if (p.num_rows == 0 || p.num_heads == 0 || p.num_slots == 0) return 0;
  const int64_t rows = kAttentionWarps * rows_per_warp(p);
  const int64_t tiles = (p.num_rows * (p.num_heads / p.num_kv_heads) + rows - 1) / rows;
  if (tiles * p.num_kv_heads >= kEnoughBlocks) return 0;
  const int64_t shortest = attention_splits(1).keys;
  const int64_t splits = (p.capacity + shortest - 1) / shortest;
  return splits <= 1 ? 0 : (splits < kAttentionMaxSplits ? splits : kAttentionMaxSplits);
}

const char* launch_attention(const AttentionParams& p, void* stream) {
  if (p.num_rows == 0 || p.num_heads == 0 || p.head_size == 0) return nullptr;
  if (p.head_size > kMaxAttentionHeadSize) return "the head size is larger than the kernels support";
  if (p.num_rows * (p.num_heads / p.num_kv_heads) > (int64_t{1} << 30)) return "there are more rows than a grid holds";
  return dispatch_float(p.dtype, [&](auto tag) {
    using scalar_t = typename decltype(tag)::type;
    return launch_both<scalar_t>(p, stream);
  });
}

}  // namespace dlmcache::cuda
