#include "dlmcache/rows.h"

#include <cstring>

#include "cpu/simd.h"

namespace dlmcache::cpu::DLMCACHE_CPU_ARCH {
namespace {

// Token buffers have rows of 4 or 8 bytes, where a call of memcpy with an unknown size would be most of the time.
// copy(bytes) gets the size as a constant where that pays.
template <typename Copy>
void with_row_bytes(int64_t row_bytes, Copy&& copy) {
  if (row_bytes == 8) return copy([]() constexpr { return int64_t{8}; });
  if (row_bytes == 4) return copy([]() constexpr { return int64_t{4}; });
  copy([row_bytes] { return row_bytes; });
}

}  // namespace

void gather_rows(const RowsParams& p, int64_t begin, int64_t end) {
  const auto* source = static_cast<const unsigned char*>(p.source);
  auto* destination = static_cast<unsigned char*>(p.destination);
  with_row_bytes(p.row_bytes, [&](auto bytes) {
    for (int64_t row = begin; row < end; ++row) {
      const int64_t from = p.row_index[row];
      if (from < 0) {
        std::memset(destination + row * bytes(), 0, bytes());
      } else {
        std::memcpy(destination + row * bytes(), source + from * bytes(), bytes());
      }
    }
  });
}

void scatter_rows(const RowsParams& p, int64_t begin, int64_t end) {
  const auto* source = static_cast<const unsigned char*>(p.source);
  auto* destination = static_cast<unsigned char*>(p.destination);
  with_row_bytes(p.row_bytes, [&](auto bytes) {
    for (int64_t row = begin; row < end; ++row) {
      const int64_t to = p.row_index[row];
      if (to >= 0) std::memcpy(destination + to * bytes(), source + row * bytes(), bytes());
    }
  });
}

}  // namespace dlmcache::cpu::DLMCACHE_CPU_ARCH
