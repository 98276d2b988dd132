// How much the attention of a few tracked rows changed when some keys of the cache were replaced: contract between the
// tensor boundary, the CPU loops and the kernels.
//
// p_old is the attention of the old queries over the old keys, p_new that of the new queries over the cache. The old
// keys are the cache with k_old at the rows of the list. Which keys those are is looked up in the ascending list; the
// cache is never copied. A first pass finds the log-sum-exps, a second one sums products of the weights, which CUDA
// computes again and the CPU has kept.
//
// The keys of a slot are cut into splits by their count alone, and partial sums are added from left to right: the same
// bits whatever else is in the batch and however many threads there are.
#pragma once

#include <cstdint>

#include "dlmcache/attention.h"
#include "dlmcache/dtype.h"
#include "dlmcache/macros.h"

namespace dlmcache {

enum class Similarity : int32_t { kHeads = 0, kRows = 1 };

struct TrackedParams {
  DType dtype;                // of queries and keys
  Similarity similarity;      // cosine over heads, or over keys
  int64_t num_tracked;        // T
  int64_t num_heads;          // H, a multiple of num_kv_heads
  int64_t num_kv_heads;       // Hkv
  int64_t head_size;          // D
  int64_t num_slots;          // S
  int64_t capacity;           // positions of a slot
  float scale;                // of the scores
  const void* q_old;          // [T, H, D]
  const void* q_new;          // [T, H, D]
  const void* k;              // [S * capacity, Hkv, D], the new keys
  const void* k_old;          // [R, Hkv, D], what stood at row_index
  const int64_t* row_index;   // [R], ascending in each slot
  const int64_t* cu_rows;     // [S + 1]
  const int64_t* cu_tracked;  // [S + 1]
  const int64_t* kv_lens;     // [S] in [0, capacity]
  float* out;                 // [S]

  // Scratch.
  float* lse;             // [T, H, 2], CPU only
  int64_t max_keys;       // CPU only: the largest of kv_lens
  float* weights;         // CPU only: [tiles, Hkv, max_keys, tracked_lanes], and a vector
  int64_t max_splits;     // splits that a slot's keys may have
  float* partial_stats;   // [T, H, 2 (old, new), max_splits, 2]: maximum, sum
  float* partial_cosine;  // kHeads: [S, max_splits], sums of cosines
  float* partial_dots;    // kRows: [T, H, max_splits, 3], sums of old * new, old * old, new * new
};

inline constexpr float kMinNorm = 1e-8f;  // of the vectors that a cosine is taken of

namespace cpu {

inline constexpr int64_t kTrackedMinKeys = 96, kTrackedMaxSplits = 64;

DLMCACHE_HOST_DEVICE KeySplits tracked_splits(int64_t num_keys) {
  return key_splits<kTrackedMinKeys, kTrackedMaxSplits>(num_keys);
}

// Tracked rows that are computed at a time, and a bound on the vector lanes that they fill.
DLMCACHE_HOST_DEVICE int64_t tracked_tile_rows(const TrackedParams& p) {
  const int64_t rows = 16 / (p.num_heads / p.num_kv_heads);
  return rows > 1 ? rows : 1;
}
DLMCACHE_HOST_DEVICE int64_t tracked_lanes(const TrackedParams& p) {
  return (2 * tracked_tile_rows(p) * (p.num_heads / p.num_kv_heads) + 7) / 8 * 8;
}
// Entries of `weights`. The tiles of a slot are numbered from cu_tracked / tracked_tile_rows + slot on; a vector of
// lanes may be read that begins within the last tile.
DLMCACHE_HOST_DEVICE int64_t tracked_weights(const TrackedParams& p) {
  const int64_t tiles = p.num_tracked / tracked_tile_rows(p) + p.num_slots;
  return tiles * p.num_kv_heads * p.max_keys * tracked_lanes(p) + 8;
}

// Work items [begin, end): split i % max_splits of slot i / max_splits. First pass: writes partial_stats and weights.
void tracked_stats(const TrackedParams& p, int64_t begin, int64_t end);

// Merges the statistics of tracked rows [begin, end), all in use, into lse.
void tracked_merge_rows(const TrackedParams& p, int64_t begin, int64_t end);

// Second pass over the same items as the first: writes partial_cosine or partial_dots.
void tracked_products(const TrackedParams& p, int64_t begin, int64_t end);

// Slots [begin, end): writes out.
void tracked_finish(const TrackedParams& p, int64_t begin, int64_t end);

}  // namespace cpu

namespace cuda {

inline constexpr int64_t kTrackedMinKeys = 32, kTrackedMaxSplits = 64;

DLMCACHE_HOST_DEVICE KeySplits tracked_splits(int64_t num_keys) {
  return key_splits<kTrackedMinKeys, kTrackedMaxSplits>(num_keys);
}

// nullptr, or what the launch failed with.
const char* launch_tracked_similarity(const TrackedParams& p, void* stream);

}  // namespace cuda

}  // namespace dlmcache
