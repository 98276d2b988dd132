// Reducing the vocabulary to a prediction per row: contract between the tensor boundary, the CPU loops and the kernels.
//
// Logits come in chunks of the vocabulary. Everything that a row needs of the ids seen so far fits into VocabState,
// two states merge without loss, and finish_row turns the last one into the outputs.
#pragma once

#include <cmath>
#include <cstdint>

#include "dlmcache/dtype.h"
#include "dlmcache/philox.h"

namespace dlmcache {

inline constexpr int32_t kNoId = INT32_MAX;  // later than every id, so it loses every tie

// What is known of a set of ids. `max` ranges over the ids that take part in the softmax, `rest` is the sum over all
// of them but the largest: never adding the 1 of the largest is what keeps confidences near 1 apart, 1 - p being
// rest / (1 + rest). A NaN among the logits makes `rest` NaN and stays.
struct VocabState {
  float max;           // largest logit, -inf if none
  int32_t max_id;      // its lowest id
  float rest;          // sum of exp(logit - max) over the others
  float rest_gap;      // sum of exp(logit - max) (max - logit) over the others: the entropy's part
  float second;        // largest logit of the others, -inf if none
  int32_t second_id;   // its lowest id
  float choice;        // largest logit + temperature * noise; without noise only ids outside the softmax stand here
  int32_t choice_id;   // its lowest id
  float choice_logit;  // its logit, -inf if it is outside the softmax
};
static_assert(sizeof(VocabState) == 36);

struct VocabReduceParams {
  DType dtype;           // of logits
  int64_t num_rows;      // R
  int64_t num_segments;  // parts of a row's chunk, each with its own running state
  int64_t chunk_begin;   // first id of this chunk, a multiple of 4
  int64_t chunk_width;   // ids in this chunk
  bool first;            // no state exists yet
  bool last;             // with one segment: write the outputs, not the state
  bool extras;           // second token and entropy are wanted
  void* logits;          // [R, chunk_width], rows logits_stride apart; excluded ids become -inf on CUDA
  int64_t logits_stride;
  const int64_t* suppress_ids;  // [num_suppress]: excluded from everything
  int64_t num_suppress;
  const int64_t* confidence_suppress_ids;  // [num_confidence_suppress]: can be chosen, excluded from the softmax
  int64_t num_confidence_suppress;
  float temperature;         // 0: no noise
  const int64_t* row_index;  // [R] or nullptr: slot * capacity + position; -1 marks an unused row
  int64_t capacity;
  const int64_t* seeds;          // [slots], needed for temperature > 0
  const int64_t* steps;          // [slots], needed for temperature > 0
  VocabState* state;             // [R, num_segments]; may be nullptr when first && last and one segment
  int64_t* token;                // [R]
  float* log_confidence;         // [R]
  int64_t* second_token;         // [R] or nullptr
  float* second_log_confidence;  // [R] or nullptr
  float* entropy;                // [R] or nullptr
};

// Ids of one segment of a chunk; a multiple of 64, so that the four numbers of one Philox call stay together.
DLMCACHE_HOST_DEVICE int64_t segment_width(const VocabReduceParams& p) {
  const int64_t width = (p.chunk_width + p.num_segments - 1) / p.num_segments;
  return (width + 63) / 64 * 64;
}

DLMCACHE_HOST_DEVICE VocabState empty_state() {
  return {-INFINITY, kNoId, 0.0f, 0.0f, -INFINITY, kNoId, -INFINITY, kNoId, -INFINITY};
}

// True when (value, id) comes before (other, other_id): larger value, then lower id.
DLMCACHE_HOST_DEVICE bool precedes(float value, int32_t id, float other, int32_t other_id) {
  return value > other || (value == other && id < other_id);
}

DLMCACHE_HOST_DEVICE void offer_choice(VocabState& s, float value, int32_t id, float logit) {
  if (!precedes(value, id, s.choice, s.choice_id)) return;
  s.choice = value;
  s.choice_id = id;
  s.choice_logit = logit;
}

// An id that may be chosen but takes no part in the softmax. NaN and +inf spoil the row as they do everywhere.
DLMCACHE_HOST_DEVICE void offer_outside(VocabState& s, float value, int32_t id, float logit) {
  if (!(logit < INFINITY)) s.rest = NAN;
  if (logit > -INFINITY) offer_choice(s, value, id, -INFINITY);
}

// The state of the union of two disjoint sets of ids.
DLMCACHE_HOST_DEVICE VocabState merge_states(const VocabState& a, const VocabState& b) {
  const bool a_first = precedes(a.max, a.max_id, b.max, b.max_id);
  VocabState winner = a_first ? a : b;
  const VocabState loser = a_first ? b : a;
  if (loser.max == -INFINITY) {
    winner.rest += loser.rest;  // 0, or NaN that must not get lost
  } else {
    const float gap = winner.max - loser.max;
    const float scale = expf(-gap);
    // Beyond fp32's exponents nothing is left; 0 * inf would make a NaN of it.
    const float shifted = scale > 0.0f ? scale * (loser.rest_gap + gap * (1.0f + loser.rest)) : 0.0f;
    winner.rest += scale * (1.0f + loser.rest);
    winner.rest_gap += shifted;
    if (precedes(loser.max, loser.max_id, winner.second, winner.second_id)) {
      winner.second = loser.max;
      winner.second_id = loser.max_id;
    }
  }
  offer_choice(winner, loser.choice, loser.choice_id, loser.choice_logit);
  return winner;
}

DLMCACHE_HOST_DEVICE void write_row(const VocabReduceParams& p, int64_t row, int64_t token, float log_confidence,
                                    int64_t second_token, float second_log_confidence, float entropy) {
  p.token[row] = token;
  p.log_confidence[row] = log_confidence;
  if (!p.extras) return;
  p.second_token[row] = second_token;
  p.second_log_confidence[row] = second_log_confidence;
  p.entropy[row] = entropy;
}

DLMCACHE_HOST_DEVICE void write_unused_row(const VocabReduceParams& p, int64_t row) {
  write_row(p, row, -1, 0.0f, -1, 0.0f, 0.0f);
}

// The outputs of a row from the state of the whole vocabulary.
DLMCACHE_HOST_DEVICE void finish_row(const VocabReduceParams& p, int64_t row, VocabState s) {
  if (p.temperature == 0.0f && s.max > -INFINITY) offer_choice(s, s.max, s.max_id, s.max);
  const bool broken = s.rest != s.rest || s.max == INFINITY;
  if (broken || s.choice_id == kNoId) {
    write_row(p, row, -1, NAN, -1, NAN, NAN);
    return;
  }
  const bool inside = s.choice_logit > -INFINITY;
  const float log_of_max = -log1pf(s.rest);
  const float log_confidence = inside ? (s.choice_logit - s.max) + log_of_max : -INFINITY;
  if (s.choice_id == s.max_id) {
    const bool found = s.second_id != kNoId;
    write_row(p, row, s.choice_id, log_confidence, found ? s.second_id : -1,
              found ? (s.second - s.max) + log_of_max : -INFINITY, s.rest_gap / (1.0f + s.rest) - log_of_max);
  } else {
    const bool found = s.max_id != kNoId;
    write_row(p, row, s.choice_id, log_confidence, found ? s.max_id : -1, found ? log_of_max : -INFINITY,
              s.rest_gap / (1.0f + s.rest) - log_of_max);
  }
}

namespace cpu {
// Units are (row, segment): begin and end count row * num_segments + segment.
void vocab_reduce_rows(const VocabReduceParams& p, int64_t begin, int64_t end);
// Merges the segments of rows [begin, end) and writes the outputs.
void vocab_finish_rows(const VocabReduceParams& p, int64_t begin, int64_t end);
}  // namespace cpu

namespace cuda {
// One chunk; nullptr, or what the launch failed with.
const char* launch_vocab_reduce(const VocabReduceParams& p, void* stream);
// Needed once after the last chunk when num_segments > 1.
const char* launch_vocab_finish(const VocabReduceParams& p, void* stream);
}  // namespace cuda

}  // namespace dlmcache
