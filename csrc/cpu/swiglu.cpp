#include "dlmcache/swiglu.h"

#include <cmath>

#include "cpu/simd.h"
#include "dlmcache/dispatch.h"

namespace dlmcache::cpu::DLMCACHE_CPU_ARCH {
namespace {

// g / (1 + e^-g) by an exponential that cannot overflow: of -|g|, as the square of u = e^(-|g| / 2), because g u u is
// still a number where u u alone has run out of exponents.
template <int n>
inline void silu(FloatVec (&g)[n]) {
  FloatVec u[n];
#pragma GCC unroll 4
  for (int i = 0; i < n; ++i) u[i] = -0.5f * max(g[i], -g[i]);
  exp_nonpositive(u);
#pragma GCC unroll 4
  for (int i = 0; i < n; ++i) g[i] = g[i] < 0.0f ? g[i] * u[i] * u[i] : g[i];
#pragma GCC unroll 4
  for (int i = 0; i < n; ++i) g[i] /= 1.0f + u[i] * u[i];
}

template <int n, typename scalar_t>
inline void gate_vectors(const scalar_t* gate, const scalar_t* up, scalar_t* out) {
  FloatVec g[n];
#pragma GCC unroll 4
  for (int i = 0; i < n; ++i) g[i] = load(gate + i * kLanes);
  silu(g);
  // Two roundings, as torch's silu(gate) * up has them: a sequence decodes to the same tokens either way.
#pragma GCC unroll 4
  for (int i = 0; i < n; ++i) g[i] = round_to<scalar_t>(g[i]);
#pragma GCC unroll 4
  for (int i = 0; i < n; ++i) store(out + i * kLanes, g[i] * load(up + i * kLanes));
}

template <typename scalar_t>
void gate_row(const scalar_t* gate, const scalar_t* up, int64_t width, scalar_t* out) {
  int64_t i = 0;
  for (; i + kSideBySide * kLanes <= width; i += kSideBySide * kLanes)
    gate_vectors<kSideBySide>(gate + i, up + i, out + i);
  for (; i + kLanes <= width; i += kLanes) gate_vectors<1>(gate + i, up + i, out + i);
  if (i == width) return;
  // The rest goes through the same vectors, so that an element's value does not depend on where it stands.
  const int64_t rest = width - i;
  scalar_t gate_rest[kLanes] = {}, up_rest[kLanes] = {}, out_rest[kLanes];
  std::memcpy(gate_rest, gate + i, rest * sizeof(scalar_t));
  std::memcpy(up_rest, up + i, rest * sizeof(scalar_t));
  gate_row(gate_rest, up_rest, kLanes, out_rest);
  std::memcpy(out + i, out_rest, rest * sizeof(scalar_t));
}

}  // namespace

void swiglu_rows(const SwigluParams& p, int64_t begin, int64_t end) {
  dispatch_float(p.dtype, [&](auto tag) {
    using scalar_t = typename decltype(tag)::type;
    for (int64_t row = begin; row < end; ++row) {
      const scalar_t* gate = static_cast<const scalar_t*>(p.gate_up) + row * p.gate_up_stride;
      gate_row(gate, gate + p.width, p.width, static_cast<scalar_t*>(p.out) + row * p.width);
    }
  });
}

}  // namespace dlmcache::cpu::DLMCACHE_CPU_ARCH
