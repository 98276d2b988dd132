#include "dlmcache/drift.h"

#include <cstring>

#include "cpu/simd.h"
#include "dlmcache/dispatch.h"

namespace dlmcache::cpu::DLMCACHE_CPU_ARCH {
namespace {

struct Squares {
  float a, b;
};

template <typename scalar_t>
Squares sums_of_squares(const scalar_t* a, const scalar_t* b, int64_t width) {
  // Two accumulators each hide the latency of the additions. Both sums take their terms in the same order, so that
  // equal vectors have equal sums.
  FloatVec acc_a[2] = {}, acc_b[2] = {};
  int64_t i = 0;
  for (; i + 2 * kLanes <= width; i += 2 * kLanes) {
    for (int u = 0; u < 2; ++u) {
      const FloatVec x = load(a + i + u * kLanes), y = load(b + i + u * kLanes);
      acc_a[u] += x * x;
      acc_b[u] += y * y;
    }
  }
  Squares squares = {sum(acc_a[0] + acc_a[1]), sum(acc_b[0] + acc_b[1])};
  for (; i < width; ++i) {
    squares.a += to_float(a[i]) * to_float(a[i]);
    squares.b += to_float(b[i]) * to_float(b[i]);
  }
  return squares;
}

// The sum of (a - factor * b)^2.
template <typename scalar_t>
float difference_squares(const scalar_t* a, const scalar_t* b, float factor, int64_t width) {
  FloatVec acc[2] = {};
  int64_t i = 0;
  for (; i + 2 * kLanes <= width; i += 2 * kLanes) {
    for (int u = 0; u < 2; ++u) {
      const FloatVec difference = load(a + i + u * kLanes) - factor * load(b + i + u * kLanes);
      acc[u] += difference * difference;
    }
  }
  float total = sum(acc[0] + acc[1]);
  for (; i < width; ++i) {
    const float difference = to_float(a[i]) - factor * to_float(b[i]);
    total += difference * difference;
  }
  return total;
}

}  // namespace

void cosine_drift_rows(const CosineDriftParams& p, int64_t begin, int64_t end) {
  dispatch_float(p.dtype, [&](auto tag) {
    using scalar_t = typename decltype(tag)::type;
    for (int64_t row = begin; row < end; ++row) {
      const int64_t index = p.row_index[row];
      if (index < 0) {
        p.drift[row] = 0.0f;
        continue;
      }
      const scalar_t* a = static_cast<const scalar_t*>(p.signal) + row * p.signal_stride;
      scalar_t* b = static_cast<scalar_t*>(p.reference) + index * p.width;
      const Squares squares = sums_of_squares(a, b, p.width);
      const float difference = difference_squares(a, b, drift_factor(squares.a, squares.b), p.width);
      p.drift[row] = drift_of(squares.a, squares.b, difference);
      if (p.update && p.width > 0) std::memcpy(b, a, p.width * sizeof(scalar_t));
    }
  });
}

}  // namespace dlmcache::cpu::DLMCACHE_CPU_ARCH
