#include "dlmcache/commit.h"

#include "cpu/simd.h"

namespace dlmcache::cpu::DLMCACHE_CPU_ARCH {
namespace {

// A binary heap with the smallest key on top: a rule that takes k of n candidates costs n + k log n.
void sink(uint64_t* heap, int64_t size, int64_t at) {
  const uint64_t key = heap[at];
  for (int64_t child = 2 * at + 1; child < size; child = 2 * at + 1) {
    if (child + 1 < size && heap[child + 1] < heap[child]) ++child;
    if (key <= heap[child]) break;
    heap[at] = heap[child];
    at = child;
  }
  heap[at] = key;
}

void make_heap(uint64_t* heap, int64_t size) {
  for (int64_t at = size / 2 - 1; at >= 0; --at) sink(heap, size, at);
}

uint64_t pop(uint64_t* heap, int64_t size) {
  const uint64_t top = heap[0];
  heap[0] = heap[size - 1];
  sink(heap, size - 1, 0);
  return top;
}

// Returns how many tokens were written; `num_invalid` is counted on the way.
int64_t commit_candidates(const CommitParams& p, int64_t slot, int64_t* num_invalid) {
  const int64_t first = p.cu_rows[slot];
  const int64_t count = p.cu_rows[slot + 1] - first;
  uint64_t* heap = p.keys + first;
  int64_t num_valid = 0;
  *num_invalid = 0;
  for (int64_t i = 0; i < count; ++i) {
    const int64_t entry = first + i;
    const uint64_t key = commit_key(p.row_index[entry], p.token[entry], p.log_confidence[entry], p.score[entry],
                                    static_cast<uint32_t>(i));
    if (key != kInvalidKey) {
      heap[num_valid++] = key;
    } else if (p.row_index[entry] >= 0) {
      ++*num_invalid;
    }
  }
  if (p.num_commit[slot] <= 0) return 0;

  make_heap(heap, num_valid);
  int64_t num_committed = 0;
  for (int64_t n = 1; n <= num_valid; ++n) {
    const int64_t entry = first + commit_key_place(pop(heap, num_valid - n + 1));
    const float log_confidence = p.log_confidence[entry];
    if (!passes_rule(p, n, log_confidence, p.num_commit[slot])) break;
    if (p.token[entry] == p.mask_id) continue;  // chosen, but the position stays masked
    const int64_t row = p.row_index[entry];
    p.tokens[row] = p.token[entry];
    p.commit_step[row] = p.steps[slot];
    p.commit_log_confidence[row] = log_confidence;
    p.committed[entry] = true;
    ++num_committed;
  }
  return num_committed;
}

void write_status(const CommitParams& p, int64_t slot, int64_t num_committed, int64_t num_invalid) {
  const int64_t* span = p.spans + 4 * slot;
  const int64_t* tokens = p.tokens + slot * p.capacity;
  int64_t first_end = span[0], masks_before_end = 0, masks_in_block = 0;
  for (; first_end < span[1] && !is_end(p, tokens[first_end]); ++first_end) {
    masks_before_end += tokens[first_end] == p.mask_id;
  }
  for (int64_t position = span[2]; position < span[3]; ++position) masks_in_block += tokens[position] == p.mask_id;
  int64_t* status = p.status + kStatusSize * slot;
  status[kNumCommitted] = num_committed;
  status[kMasksInBlock] = masks_in_block;
  status[kMasksBeforeEnd] = masks_before_end;
  status[kFirstEnd] = first_end;
  status[kNumInvalid] = num_invalid;
}

}  // namespace

void commit_slots(const CommitParams& p, int64_t begin, int64_t end) {
  for (int64_t slot = begin; slot < end; ++slot) {
    for (int64_t entry = p.cu_rows[slot]; entry < p.cu_rows[slot + 1]; ++entry) p.committed[entry] = false;
    if (p.spans[4 * slot] >= p.spans[4 * slot + 1]) {  // no sequence in this slot
      for (int i = 0; i < kStatusSize; ++i) p.status[kStatusSize * slot + i] = 0;
      continue;
    }
    int64_t num_invalid = 0;
    const int64_t num_committed = commit_candidates(p, slot, &num_invalid);
    write_status(p, slot, num_committed, num_invalid);
  }
}

}  // namespace dlmcache::cpu::DLMCACHE_CPU_ARCH
