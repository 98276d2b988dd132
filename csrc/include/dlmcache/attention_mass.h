// How much attention every cached key receives: contract between the tensor boundary, the CPU loops and the kernels.
//
// attention_mass sums the attention weights of a slot's rows over rows and heads; rollout_step is the same sum with
// weights taken from a vector over the cache, plus what stays where it is. Packed rows, tiles and splits are those of
// attention.h. No weight is stored: scores are computed again once the rows' log-sum-exps are known.
//
// A key's mass is a sum in an order that depends on the rows of its slot alone: the same bits whatever else is in the
// batch and however many threads there are.
#pragma once

#include <cstdint>

#include "dlmcache/attention.h"
#include "dlmcache/dtype.h"
#include "dlmcache/macros.h"

namespace dlmcache {

struct AttentionMassParams {
  DType dtype;               // of q and k
  int64_t num_rows;          // R
  int64_t num_heads;         // H, a multiple of num_kv_heads
  int64_t num_kv_heads;      // Hkv
  int64_t head_size;         // D
  int64_t num_slots;         // S
  int64_t capacity;          // positions of a slot
  float scale;               // of the scores
  const void* q;             // [R, H, D]
  const void* k;             // [S * capacity, Hkv, D]
  const int64_t* cu_rows;    // [S + 1], ascending from 0; rows from cu_rows[S] on are unused
  const int64_t* kv_lens;    // [S] in [0, capacity]
  const float* lse;          // [R, H] natural log-sum-exp of the scaled scores
  const float* row_weight;   // [R] or nullptr (ones); not with z
  const float* z;            // [S * capacity] or nullptr; makes this a rollout step
  const int64_t* row_index;  // [R] with z: where the rows stand, ascending in each slot
  float* out;                // [S * capacity]

  // Scratch of the first pass, when the caller has no log-sum-exps.
  float* own_lse;        // [R, H], what lse points to; nullptr: lse was given
  int64_t max_splits;    // splits that a slot's keys may have
  float* partial_stats;  // [R, H, max_splits, 2]: maximum, sum

  // CUDA only: the mass that each key/value head's queries give, [Hkv, S * capacity].
  float* partial_mass;

  // CPU only: work items of the first pass per key/value head before each slot, [S + 1].
  const int64_t* item_start;
};

// The weight of row `row`'s attention in the sum.
DLMCACHE_HOST_DEVICE float attention_mass_weight(const AttentionMassParams& p, int64_t row) {
  if (p.z) return p.z[p.row_index[row]] * (0.5f / static_cast<float>(p.num_heads));
  return p.row_weight ? p.row_weight[row] : 1.0f;
}

namespace cpu {

inline constexpr int64_t kMassBlockKeys = 96;

// First pass. Work items [begin, end): item i is entry i % item_start[S] (slot by slot: tiles, and within a tile its
// splits) of key/value head i / item_start[S]. Writes partial_stats.
void attention_mass_stats(const AttentionMassParams& p, int64_t begin, int64_t end);

// Merges the partial results of rows [begin, end), all in use, into own_lse.
void attention_mass_merge_rows(const AttentionMassParams& p, int64_t begin, int64_t end);

// Blocks of kMassBlockKeys positions [begin, end), ceil(capacity / kMassBlockKeys) of each slot: writes out.
void attention_mass_blocks(const AttentionMassParams& p, int64_t begin, int64_t end);

}  // namespace cpu

namespace cuda {

// Log-sum-exps into own_lse, when it is set.
const char* launch_attention_mass_lse(const AttentionMassParams& p, void* stream);

// nullptr, or what the launch failed with.
const char* launch_attention_mass(const AttentionMassParams& p, void* stream);

}  // namespace cuda

}  // namespace dlmcache
