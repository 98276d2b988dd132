#include "dlmcache/row_list.h"

#include "cpu/simd.h"

namespace dlmcache::cpu::DLMCACHE_CPU_ARCH {
namespace {

int64_t count_flags(const bool* flags, int64_t begin, int64_t end) {
  int64_t count = 0;
  for (int64_t position = begin; position < end; ++position) count += flags[position];
  return count;
}

}  // namespace

void count_rows(const BuildRowsParams& p, int64_t begin, int64_t end) {
  for (int64_t slot = begin; slot < end; ++slot) {
    const int64_t first = p.begin[slot], last = p.end[slot];
    int64_t count = 0;
    if (first < last) count = p.flags ? count_flags(p.flags + slot * p.capacity, first, last) : last - first;
    if (p.limit && count > p.limit[slot]) count = p.limit[slot] > 0 ? p.limit[slot] : 0;
    p.counts[slot] = count;
  }
}

void build_rows(const BuildRowsParams& p, int64_t begin, int64_t end) {
  for (int64_t slot = begin; slot < end; ++slot) {
    const bool* flags = p.flags ? p.flags + slot * p.capacity : nullptr;
    int64_t position = p.begin[slot];
    for (int64_t entry = p.cu_rows[slot]; entry < p.cu_rows[slot + 1]; ++entry, ++position) {
      while (flags && !flags[position]) ++position;
      p.row_index[entry] = slot * p.capacity + position;
    }
  }
}

void find_rows(const FindRowsParams& p, int64_t begin, int64_t end) {
  for (int64_t i = begin; i < end; ++i) {
    const int64_t row = p.query[i];
    p.place[i] = -1;
    if (row < 0) continue;
    const int64_t slot = row / p.capacity;
    int64_t low = p.cu_rows[slot];
    int64_t high = p.cu_rows[slot + 1];
    while (low < high) {
      const int64_t middle = low + (high - low) / 2;
      if (p.row_index[middle] < row) {
        low = middle + 1;
      } else {
        high = middle;
      }
    }
    if (low < p.cu_rows[slot + 1] && p.row_index[low] == row) p.place[i] = low;
  }
}

}  // namespace dlmcache::cpu::DLMCACHE_CPU_ARCH
