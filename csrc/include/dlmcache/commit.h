// Committing candidates: the rules, and what is left to do in every slot afterwards.
#pragma once

#include <cmath>
#include <cstdint>

#include "dlmcache/dtype.h"
#include "dlmcache/ordered_bits.h"

namespace dlmcache {

// Every rule commits a prefix of a slot's candidates, sorted by score (descending, then by list order).
enum class CommitRule : int32_t {
  kFixed = 0,      // the first num_commit
  kThreshold = 1,  // the first, and all that have log_confidence >= rule_value
  kFactor = 2,     // the longest prefix in which (n + 1) (1 - c_n) < rule_value for every n = 1, 2, ...; at least one
};

// Entries of one row of CommitParams::status.
enum CommitStatus : int { kNumCommitted, kMasksInBlock, kMasksBeforeEnd, kFirstEnd, kNumInvalid, kStatusSize };

struct CommitParams {
  int64_t num_slots;  // S
  int64_t num_rows;   // R: entries of the candidate list
  int64_t capacity;   // positions per slot
  int64_t num_ends;   // E
  int64_t mask_id;    // the token that stands for "not decided yet"
  CommitRule rule;
  double rule_value;             // ln(threshold), rounded to fp32, or the factor
  const int64_t* row_index;      // [R] rows of the candidates, ascending
  const int64_t* cu_rows;        // [S + 1]
  const int64_t* token;          // [R] predicted token, -1: none
  const float* log_confidence;   // [R]
  const float* score;            // [R], or log_confidence
  const int64_t* num_commit;     // [S] kFixed: how many; other rules: 0 or less commits nothing
  const int64_t* steps;          // [S] what commit_step becomes
  const int64_t* spans;          // [S, 4] gen_begin, gen_end, block_begin, block_end: positions
  const int64_t* end_ids;        // [E] tokens that end a sequence
  uint64_t* keys;                // [R] scratch: sort keys
  int64_t* tokens;               // [S * capacity]
  int64_t* commit_step;          // [S * capacity]
  float* commit_log_confidence;  // [S * capacity]
  bool* committed;               // [R]
  int64_t* status;               // [S, kStatusSize]
};

// The key of an invalid candidate; every valid one has a smaller key.
inline constexpr uint64_t kInvalidKey = ~uint64_t{0};

// Sorting by this key in ascending order sorts candidates by score, highest first, and equal scores by `place`, the
// candidate's number within its slot.
DLMCACHE_HOST_DEVICE uint64_t commit_key(int64_t row, int64_t token, float log_confidence, float score,
                                         uint32_t place) {
  if (row < 0 || token < 0 || detail::is_nan(log_confidence) || detail::is_nan(score)) return kInvalidKey;
  return static_cast<uint64_t>(~detail::ordered_bits(score)) << 32 | place;
}

DLMCACHE_HOST_DEVICE uint32_t commit_key_place(uint64_t key) { return static_cast<uint32_t>(key); }

// Whether candidate number n (from 1) of the sorted order is committed, given that all before it are.
DLMCACHE_HOST_DEVICE bool passes_rule(const CommitParams& p, int64_t n, float log_confidence, int64_t num_commit) {
  if (p.rule == CommitRule::kFixed) return n <= num_commit;
  if (n == 1) return true;
  if (p.rule == CommitRule::kThreshold) return log_confidence >= static_cast<float>(p.rule_value);
  // In double: fp32 libraries differ in the last place, and every device must decide alike.
  return static_cast<double>(n + 1) * -expm1(static_cast<double>(log_confidence)) < p.rule_value;
}

DLMCACHE_HOST_DEVICE bool is_end(const CommitParams& p, int64_t token) {
  for (int64_t i = 0; i < p.num_ends; ++i) {
    if (p.end_ids[i] == token) return true;
  }
  return false;
}

namespace cpu {
// Slots begin to end.
void commit_slots(const CommitParams& p, int64_t begin, int64_t end);
}  // namespace cpu

namespace cuda {
// nullptr, or what the launch failed with.
const char* launch_commit(const CommitParams& p, void* stream);
}  // namespace cuda

}  // namespace dlmcache
