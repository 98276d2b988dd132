// Floats as unsigned integers of the same order, for sorting and radix selection.
#pragma once

#include <cstdint>

#include "dlmcache/dtype.h"

namespace dlmcache::detail {

// Orders like the numbers: a > b exactly if ordered_bits(a) > ordered_bits(b). -0 counts as 0; not for NaN.
DLMCACHE_HOST_DEVICE uint32_t ordered_bits(float value) {
  const uint32_t bits = bit_cast<uint32_t>(value + 0.0f);  // -0 + 0 = +0
  return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

DLMCACHE_HOST_DEVICE bool is_nan(float value) { return value != value; }

}  // namespace dlmcache::detail
