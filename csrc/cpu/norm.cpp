#include "dlmcache/norm.h"

#include <cmath>

#include "cpu/simd.h"
#include "dlmcache/dispatch.h"

namespace dlmcache::cpu::DLMCACHE_CPU_ARCH {
namespace {

template <typename scalar_t>
float sum_of_squares(const scalar_t* x, int64_t width) {
  // Four accumulators hide the latency of the additions.
  FloatVec acc[4] = {};
  int64_t i = 0;
  for (; i + 4 * kLanes <= width; i += 4 * kLanes) {
    for (int u = 0; u < 4; ++u) {
      const FloatVec v = load(x + i + u * kLanes);
      acc[u] += v * v;
    }
  }
  float total = sum((acc[0] + acc[1]) + (acc[2] + acc[3]));
  for (; i < width; ++i) total += to_float(x[i]) * to_float(x[i]);
  return total;
}

template <typename scalar_t>
void normalise_row(const scalar_t* x, const scalar_t* weight, int64_t width, float eps, scalar_t* out) {
  const float scale = 1.0f / std::sqrt(sum_of_squares(x, width) / static_cast<float>(width) + eps);
  int64_t i = 0;
  for (; i + kLanes <= width; i += kLanes) {
    // LLaDA rounds to the storage type before it multiplies by the weight; so do we, bit for bit.
    store(out + i, round_to<scalar_t>(load(x + i) * scale) * load(weight + i));
  }
  for (; i < width; ++i) {
    const scalar_t rounded = from_float<scalar_t>(to_float(x[i]) * scale);
    out[i] = from_float<scalar_t>(to_float(rounded) * to_float(weight[i]));
  }
}

}  // namespace

void rms_norm_rows(const RmsNormParams& p, int64_t begin, int64_t end) {
  dispatch_float(p.dtype, [&](auto tag) {
    using scalar_t = typename decltype(tag)::type;
    const auto* x = static_cast<const scalar_t*>(p.x);
    auto* out = static_cast<scalar_t*>(p.out);
    for (int64_t row = begin; row < end; ++row) {
      const int64_t source = p.row_index ? p.row_index[row] : row;
      if (source < 0) {
        std::memset(out + row * p.width, 0, p.width * sizeof(scalar_t));
        continue;
      }
      normalise_row(x + source * p.x_stride, static_cast<const scalar_t*>(p.weight), p.width, p.eps,
                    out + row * p.width);
    }
  });
}

}  // namespace dlmcache::cpu::DLMCACHE_CPU_ARCH
