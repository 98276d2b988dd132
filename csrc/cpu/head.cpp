#include "dlmcache/head.h"

#include "cpu/noise.h"
#include "cpu/simd.h"
#include "dlmcache/dispatch.h"

namespace dlmcache::cpu::DLMCACHE_CPU_ARCH {
namespace {

// Ids reduced at a time: 8 KiB of fp32, so that the passes over a tile read the first-level cache.
constexpr int kTile = 2048;
// Ids whose largest logit is remembered: where the argmax is looked up, and what noise cannot lift is skipped.
constexpr int kBlock = 256;
constexpr int kBlocks = kTile / kBlock;
// Tiles are filled up to a multiple of this, so that no loop has a remainder.
constexpr int kStep = 4 * kLanes;
static_assert(kBlock % kStep == 0 && kStep % kNoiseStep == 0);

// Above every value of gumbel_from_word (22.87).
constexpr float kNoiseBound = 23.0f;

struct Noise {
  float temperature;
  int64_t seed, step, position;
};

// NaN is ignored here: the sum of exponentials finds it.
float largest(const float* x, int count) {
  FloatVec best[4];
  for (int u = 0; u < 4; ++u) best[u] = load(x + u * kLanes);
  for (int i = 0; i < count; i += kStep) {
    for (int u = 0; u < 4; ++u) best[u] = max(load(x + i + u * kLanes), best[u]);
  }
  float result = -INFINITY;
  for (int u = 0; u < 4; ++u) {
    for (int i = 0; i < kLanes; ++i) result = best[u][i] > result ? best[u][i] : result;
  }
  return result;
}

int first_equal(const float* x, float value) {
  int i = 0;
  while (x[i] != value) ++i;
  return i;
}

template <typename scalar_t>
int load_tile(const scalar_t* logits, int width, float* tile) {
  int i = 0;
  for (; i + kLanes <= width; i += kLanes) store(tile + i, load(logits + i));
  for (; i < width; ++i) tile[i] = to_float(logits[i]);
  const int padded = (width + kStep - 1) / kStep * kStep;
  for (; i < padded; ++i) tile[i] = -INFINITY;
  return padded;
}

// Takes the suppressed ids out of the tile of ids [first_id, first_id + width).
void suppress(const VocabReduceParams& p, const Noise& noise, int64_t first_id, int width, float* tile,
              VocabState& running) {
  for (int64_t i = 0; i < p.num_suppress; ++i) {
    const int64_t offset = p.suppress_ids[i] - first_id;
    if (offset >= 0 && offset < width) tile[offset] = -INFINITY;
  }
  for (int64_t i = 0; i < p.num_confidence_suppress; ++i) {
    const int64_t id = p.confidence_suppress_ids[i], offset = id - first_id;
    if (offset < 0 || offset >= width) continue;
    float value = tile[offset];
    if (noise.temperature > 0.0f) {
      const PhiloxWords words =
          draw(noise.seed, noise.step, noise.position, kGumbelStream, static_cast<uint32_t>(id / 4));
      value += noise.temperature * gumbel_from_word(words.word[id % 4]);
    }
    offer_outside(running, value, static_cast<int32_t>(id), tile[offset]);
    tile[offset] = -INFINITY;
  }
}

void choose_with_noise(const float* x, int count, const Noise& noise, int32_t first_id, VocabState& running) {
  alignas(64) float noised[kBlock];
  fill_gumbel(noise.seed, noise.step, noise.position, static_cast<uint32_t>(first_id / 4), count, noised);
  for (int i = 0; i < count; i += kLanes) store(noised + i, load(x + i) + noise.temperature * load(noised + i));
  const float best = largest(noised, count);
  if (!(best > -INFINITY) || best < running.choice) return;
  const int place = first_equal(noised, best);
  offer_choice(running, best, first_id + place, x[place]);
}

// Merges a tile of `size` logits (a multiple of kStep, -inf behind its end) into the running state of its row.
void reduce_tile(float* tile, int size, int32_t first_id, const Noise& noise, bool extras, VocabState& running) {
  const int blocks = (size + kBlock - 1) / kBlock;
  const auto block_size = [&](int b) { return b + 1 < blocks ? kBlock : size - b * kBlock; };
  float block_max[kBlocks] = {};
  int best_block = 0;
  for (int b = 0; b < blocks; ++b) {
    block_max[b] = largest(tile + b * kBlock, block_size(b));
    if (block_max[b] > block_max[best_block]) best_block = b;
  }
  VocabState state = empty_state();
  state.max = block_max[best_block];
  if (state.max == -INFINITY) {
    for (int i = 0; i < size; ++i) {
      if (tile[i] != tile[i]) running.rest = NAN;
    }
    return;
  }
  const int place = best_block * kBlock + first_equal(tile + best_block * kBlock, state.max);
  state.max_id = first_id + place;

  if (noise.temperature > 0.0f) {
    // The block of the largest logit first: it sets the mark that most others cannot reach with any noise.
    choose_with_noise(tile + best_block * kBlock, block_size(best_block), noise, first_id + best_block * kBlock,
                      running);
    for (int b = 0; b < blocks; ++b) {
      if (b == best_block || block_max[b] + noise.temperature * kNoiseBound < running.choice) continue;
      choose_with_noise(tile + b * kBlock, block_size(b), noise, first_id + b * kBlock, running);
    }
  }

  // Out of the sum, not subtracted from it: 1 + 1e-30 - 1 would be 0.
  tile[place] = -INFINITY;
  FloatVec rest[2] = {}, gap_sum[2] = {};
  const FloatVec top = broadcast(state.max), floor = broadcast(-88.0f);  // exp is 0 there, and 0 * inf would be NaN
  for (int i = 0; i < size; i += 2 * kLanes) {
    for (int u = 0; u < 2; ++u) {
      const FloatVec d = load(tile + i + u * kLanes) - top;
      const FloatVec e = exp(d);
      rest[u] += e;
      if (extras) gap_sum[u] -= e * max(d, floor);
    }
  }
  state.rest = sum(rest[0] + rest[1]);
  if (extras) {
    state.rest_gap = sum(gap_sum[0] + gap_sum[1]);
    block_max[best_block] = largest(tile + best_block * kBlock, block_size(best_block));
    int second_block = 0;
    for (int b = 1; b < blocks; ++b) {
      if (block_max[b] > block_max[second_block]) second_block = b;
    }
    if (block_max[second_block] > -INFINITY) {
      state.second = block_max[second_block];
      state.second_id = first_id + second_block * kBlock + first_equal(tile + second_block * kBlock, state.second);
    }
  }
  running = merge_states(running, state);
}

template <typename scalar_t>
void reduce_segment(const VocabReduceParams& p, int64_t row, int64_t segment, VocabState& running) {
  Noise noise{p.temperature, 0, 0, 0};
  if (p.temperature > 0.0f) {
    const int64_t slot = p.row_index[row] / p.capacity;
    noise = {p.temperature, p.seeds[slot], p.steps[slot], p.row_index[row] - slot * p.capacity};
  }
  const auto* logits = static_cast<const scalar_t*>(p.logits) + row * p.logits_stride;
  const int64_t width = segment_width(p);
  const int64_t end = (segment + 1) * width < p.chunk_width ? (segment + 1) * width : p.chunk_width;
  alignas(64) float tile[kTile];
  for (int64_t begin = segment * width; begin < end; begin += kTile) {
    const int count = static_cast<int>(end - begin < kTile ? end - begin : kTile);
    const int64_t first_id = p.chunk_begin + begin;
    const int size = load_tile(logits + begin, count, tile);
    suppress(p, noise, first_id, count, tile, running);
    reduce_tile(tile, size, static_cast<int32_t>(first_id), noise, p.extras, running);
  }
}

}  // namespace

void vocab_reduce_rows(const VocabReduceParams& p, int64_t begin, int64_t end) {
  for (int64_t unit = begin; unit < end; ++unit) {
    const int64_t row = unit / p.num_segments;
    const bool finishes = p.last && p.num_segments == 1;
    if (p.row_index && p.row_index[row] < 0) {
      if (finishes) write_unused_row(p, row);
      continue;
    }
    VocabState running = p.first ? empty_state() : p.state[unit];
    dispatch_float(p.dtype, [&](auto tag) {
      reduce_segment<typename decltype(tag)::type>(p, row, unit - row * p.num_segments, running);
    });
    if (finishes) {
      finish_row(p, row, running);
    } else {
      p.state[unit] = running;
    }
  }
}

void vocab_finish_rows(const VocabReduceParams& p, int64_t begin, int64_t end) {
  for (int64_t row = begin; row < end; ++row) {
    if (p.row_index && p.row_index[row] < 0) {
      write_unused_row(p, row);
      continue;
    }
    VocabState merged = p.state[row * p.num_segments];
    for (int64_t segment = 1; segment < p.num_segments; ++segment) {
      merged = merge_states(merged, p.state[row * p.num_segments + segment]);
    }
    finish_row(p, row, merged);
  }
}

}  // namespace dlmcache::cpu::DLMCACHE_CPU_ARCH
