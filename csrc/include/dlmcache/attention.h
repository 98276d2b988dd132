// Attention of few packed rows over a long key/value cache: contract between the tensor boundary, the CPU loops and the
// kernels.
//
// Rows of one slot that share a key/value head are packed: packed row j of key/value head h is row cu_rows[s] + j / G
// and query head h * G + j % G, where G = num_heads / num_kv_heads. A tile is a range of packed rows of one slot.
//
// The keys of a slot are cut into splits. Each split is reduced on its own to (maximum, sum, weighted values), and the
// splits are merged from left to right. Where the cuts are depends on the slot's key count alone, and whether one
// worker computes all splits of a tile or one each is a matter of scheduling only: a row's result has the same bits
// whatever else is in the batch and however many threads there are.
#pragma once

#include <cstdint>

#include "dlmcache/dtype.h"
#include "dlmcache/macros.h"

namespace dlmcache {

struct AttentionParams {
  DType dtype;             // of q, k, v and out
  int64_t num_rows;        // R
  int64_t num_heads;       // H, a multiple of num_kv_heads
  int64_t num_kv_heads;    // Hkv
  int64_t head_size;       // D
  int64_t num_slots;       // S
  int64_t capacity;        // positions of a slot
  float scale;             // of the scores
  const void* q;           // [R, H, D]
  const void* k;           // [S * capacity, Hkv, D]
  const void* v;           // [S * capacity, Hkv, D]
  const int64_t* cu_rows;  // [S + 1], ascending from 0; rows from cu_rows[S] on are unused
  const int64_t* kv_lens;  // [S] in [0, capacity]
  void* out;               // [R, H, D]; zeros for unused rows and for rows without keys
  float* lse;              // [R, H] or nullptr; 0 for unused rows, -inf for rows without keys

  // Scratch for partial results, used when the splits of a tile are computed by different workers: max_splits > 0.
  int64_t max_splits;     // splits that one row may have, 0: a worker computes all splits of its tile
  float* partial_values;  // [R, H, max_splits, D]
  float* partial_stats;   // [R, H, max_splits, 2]: maximum, sum

  // CPU only: work items per key/value head before each slot, [S + 1].
  const int64_t* item_start;
};

// How the keys of a slot are cut: splits of `keys` each, the last one shorter.
struct KeySplits {
  int64_t count;
  int64_t keys;
};

template <int64_t kMinKeys, int64_t kMaxSplits>
DLMCACHE_HOST_DEVICE KeySplits key_splits(int64_t num_keys) {
  static_assert(kMinKeys % 32 == 0);
  if (num_keys <= kMinKeys) return {num_keys > 0 ? 1 : 0, kMinKeys};
  // Longer splits rather than more of them: the partial results would outweigh the cache that they come from.
  const int64_t wanted = (num_keys + kMinKeys - 1) / kMinKeys;
  const int64_t at_most = wanted < kMaxSplits ? wanted : kMaxSplits;
  const int64_t keys = ((num_keys + at_most - 1) / at_most + 31) / 32 * 32;
  return {(num_keys + keys - 1) / keys, keys};
}

// Upper bound on the splits of a slot with `capacity` positions.
template <int64_t kMinKeys, int64_t kMaxSplits>
constexpr int64_t max_key_splits(int64_t capacity) {
  const int64_t splits = (capacity + kMinKeys - 1) / kMinKeys;
  return splits < kMaxSplits ? splits : kMaxSplits;
}

namespace cpu {

inline constexpr int64_t kAttentionTileRows = 32;

inline constexpr int64_t kAttentionMinKeys = 512, kAttentionMaxSplits = 32;

DLMCACHE_HOST_DEVICE KeySplits attention_splits(int64_t num_keys) {
  return key_splits<kAttentionMinKeys, kAttentionMaxSplits>(num_keys);
}

DLMCACHE_HOST_DEVICE int64_t attention_tiles(int64_t packed_rows) {
  return (packed_rows + kAttentionTileRows - 1) / kAttentionTileRows;
}

// Work items [begin, end): item i is entry i % item_start[S] (slot by slot: tiles, and within a tile its splits when
// max_splits > 0) of key/value head i / item_start[S].
void attention_rows(const AttentionParams& p, int64_t begin, int64_t end);

// Merges the partial results of rows [begin, end) into out and lse; rows whose slot has fewer than two splits are left
// as they are.
void attention_merge_rows(const AttentionParams& p, int64_t begin, int64_t end);

}  // namespace cpu

namespace cuda {

inline constexpr int64_t kMaxAttentionHeadSize = 256;
inline constexpr int64_t kAttentionMinKeys = 128, kAttentionMaxSplits = 32;

DLMCACHE_HOST_DEVICE KeySplits attention_splits(int64_t num_keys) {
  return key_splits<kAttentionMinKeys, kAttentionMaxSplits>(num_keys);
}

// What max_splits should be for these sizes; decided without knowing the slots' rows and keys.
int64_t attention_max_splits(const AttentionParams& p);

// nullptr, or what the launch failed with.
const char* launch_attention(const AttentionParams& p, void* stream);

}  // namespace cuda

}  // namespace dlmcache
