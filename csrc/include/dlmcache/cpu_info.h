// What the processor can do, and which of the compiled CPU versions runs.
#pragma once

namespace dlmcache::cpu {

// True when the AVX2 versions of the loops run: the processor has AVX2, FMA and F16C, and DLMCACHE_CPU_ARCH=baseline
// is not set in the environment (read once).
bool has_avx2();

// "avx2" or "baseline".
const char* active_arch();

}  // namespace dlmcache::cpu
