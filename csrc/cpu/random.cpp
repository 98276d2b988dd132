#include "dlmcache/random.h"

#include "cpu/simd.h"

namespace dlmcache::cpu::DLMCACHE_CPU_ARCH {

void uniform_rows(const UniformRowsParams& p, int64_t begin, int64_t end) {
  for (int64_t row = begin; row < end; ++row) p.out[row] = uniform_of_row(p, row);
}

}  // namespace dlmcache::cpu::DLMCACHE_CPU_ARCH
