// Sampling from logits with temperature, top-p and top-k: contract between the tensor boundary, CPU loops and kernels.
//
// A row passes three stages: filter_logits scales it and sets what the filters drop to -inf, vocab_reduce of head.h
// reduces what is left (its Gumbel noise then draws from the filtered distribution), sample_finish turns the reduced
// state into a token, its log-confidence and a score.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#include "dlmcache/dtype.h"
#include "dlmcache/head.h"

namespace dlmcache {

struct FilterParams {
  DType dtype;  // of logits
  int64_t num_rows;
  int64_t vocab;
  const void* logits;  // [R, vocab], rows logits_stride apart
  int64_t logits_stride;
  const int64_t* row_index;  // [R] or nullptr; -1 marks a row that is skipped, whose output is left as it is
  float temperature;         // logits are divided by it; 0: they are taken as they are
  double top_p;              // keep an id when the probability of all larger logits is at most this; >= 1: keep all
  int64_t top_k;             // keep an id when fewer than this many logits are larger; 0: keep all
  float* out;                // [R, vocab], rows out_stride apart; -inf where dropped
  int64_t out_stride;
};

// What a row is ranked by among the candidates of its slot.
enum SampleScore : int {
  kScoreConfidence = 0,  // ln p(token)
  kScoreMargin = 1,      // ln(p1 - p2) of the two most probable ids
  kScoreEntropy = 2,     // sum p ln p
};

struct SampleFinishParams {
  int64_t num_rows;
  int64_t num_segments;
  int score_kind;
  bool noise;                // the state's choice was made with noise; otherwise the largest logit is taken
  const int64_t* row_index;  // [R] or nullptr; -1 marks an unused row
  const VocabState* state;   // [R, num_segments]
  int64_t* token;            // [R]
  float* log_confidence;     // [R]
  float* score;              // [R]
};

// Filters compare sums with a limit. Probabilities are summed as multiples of 2^-40 of the largest one: whole numbers,
// whose sum does not depend on the order of the additions.
inline constexpr float kMassUnit = 0x1p40f;
inline constexpr int64_t kMaxFilteredVocab = (int64_t{1} << 23) - 1;  // their sum stays below 2^63

DLMCACHE_HOST_DEVICE int64_t mass_of(float exponential) { return static_cast<int64_t>(exponential * kMassUnit); }

DLMCACHE_HOST_DEVICE int64_t mass_limit(double top_p, int64_t total) {
  return static_cast<int64_t>(top_p * static_cast<double>(total));
}

// Whole numbers in the order of the floats; both zeros are one.
DLMCACHE_HOST_DEVICE uint32_t order_key(float value) {
  value += 0.0f;
  uint32_t bits;
  memcpy(&bits, &value, sizeof(bits));
  return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

// The value behind the filters whose smallest kept key is `cut`. A NaN stays, so that it is found later.
DLMCACHE_HOST_DEVICE float filtered(float value, uint32_t cut) {
  return value == value && order_key(value) < cut ? -INFINITY : value;
}

DLMCACHE_HOST_DEVICE void write_sample(const SampleFinishParams& p, int64_t row, int64_t token, float log_confidence,
                                       float score) {
  p.token[row] = token;
  p.log_confidence[row] = log_confidence;
  p.score[row] = score;
}

DLMCACHE_HOST_DEVICE void finish_sample(const SampleFinishParams& p, int64_t row, VocabState s) {
  if (!p.noise && s.max > -INFINITY) offer_choice(s, s.max, s.max_id, s.max);
  if (s.rest != s.rest || s.max == INFINITY || s.choice_id == kNoId) {
    write_sample(p, row, -1, NAN, NAN);
    return;
  }
  const float log_of_max = -log1pf(s.rest);
  const float log_confidence = (s.choice_logit - s.max) + log_of_max;
  float score = log_confidence;
  if (p.score_kind == kScoreMargin) {
    // ln(1 - e^gap), whichever form loses nothing.
    const float gap = s.second - s.max;
    score = log_of_max + (gap < -0.693147f ? log1pf(-expf(gap)) : logf(-expm1f(gap)));
  } else if (p.score_kind == kScoreEntropy) {
    score = log_of_max - s.rest_gap / (1.0f + s.rest);
  }
  write_sample(p, row, s.choice_id, log_confidence, score);
}

namespace cpu {
void filter_logits_rows(const FilterParams& p, int64_t begin, int64_t end);
void sample_finish_rows(const SampleFinishParams& p, int64_t begin, int64_t end);
}  // namespace cpu

namespace cuda {
const char* launch_filter_logits(const FilterParams& p, void* stream);
const char* launch_sample_finish(const SampleFinishParams& p, void* stream);
}  // namespace cuda

}  // namespace dlmcache
