#include "dlmcache/density.h"

#include <cmath>

#include "cpu/score_tile.h"
#include "cpu/simd.h"

namespace dlmcache::cpu::DLMCACHE_CPU_ARCH {
namespace {

thread_local Scratch thread_scratch;

// Weights by distance, and their sums up to each distance.
struct Window {
  int64_t size;    // distances 0 to size - 1 have weight
  double* weight;  // [size]
  double* until;   // [size + 1], until[d] = weight[0] + ... + weight[d - 1]

  // Sum over the distances [first, last).
  double sum(int64_t first, int64_t last) const {
    first = first < size ? first : size;
    last = last < size ? last : size;
    return last > first ? until[last] - until[first] : 0.0;
  }
};

Window make_window(const DensityParams& p, int64_t region) {
  const int64_t size = 2 * region - 1 < p.reach ? 2 * region : p.reach + 1;
  double* memory = reinterpret_cast<double*>(thread_scratch.reserve(2 * (2 * size + 1)));
  const Window window{size, memory, memory + size};
  window.until[0] = 0.0;
  for (int64_t d = 0; d < size; ++d) {
    const double distance = static_cast<double>(d);
    window.weight[d] = ::exp(-distance * distance * p.inv_two_sigma2);
    window.until[d + 1] = window.until[d] + window.weight[d];
  }
  return window;
}

float density_at(const Window& window, const bool* known, int64_t begin, int64_t end, int64_t position) {
  const int64_t region = end - begin;
  const int64_t to_left = position - begin, to_right = end - 1 - position;  // neighbours inside the region
  const double left = window.sum(to_left + 1, to_left + region + 1);
  const double right = window.sum(to_right + 1, to_right + region + 1);
  double inside = known[position] ? window.weight[0] : 0.0;
  const int64_t reach = window.size - 1;
  for (int64_t d = 1; d <= (to_left < reach ? to_left : reach); ++d) {
    if (known[position - d]) inside += window.weight[d];
  }
  for (int64_t d = 1; d <= (to_right < reach ? to_right : reach); ++d) {
    if (known[position + d]) inside += window.weight[d];
  }
  const double total = left + window.sum(0, to_left + 1) + window.sum(1, to_right + 1) + right;
  return static_cast<float>((left + inside + (known[end - 1] ? right : 0.0)) / total);
}

}  // namespace

void density_rows(const DensityParams& p, int64_t begin, int64_t end) {
  Window window{};
  for (int64_t row = begin; row < end;) {
    const int64_t slot = row / p.capacity;
    const int64_t first = p.begin[slot], last = p.end[slot];
    const int64_t end_of_slot = (slot + 1) * p.capacity < end ? (slot + 1) * p.capacity : end;
    if (last > first) window = make_window(p, last - first);
    for (; row < end_of_slot; ++row) {
      const int64_t position = row - slot * p.capacity;
      const bool inside = position >= first && position < last;
      p.out[row] = inside ? density_at(window, p.known + slot * p.capacity, first, last, position) : 0.0f;
    }
  }
}

}  // namespace dlmcache::cpu::DLMCACHE_CPU_ARCH
