// What the processor can do, and which of the compiled CPU versions runs.
#pragma once

namespace dlmcache::cpu {

// True when the AVX2 versions of the loops run, or better ones: the processor has AVX2, FMA and F16C, and
// DLMCACHE_CPU_ARCH=baseline is not set in the environment (read once).
bool has_avx2();

// True when those of the loops that have an AVX-512 version run it: the processor has F, VL, BW, DQ and BF16 besides,
// and DLMCACHE_CPU_ARCH is not avx2 either.
bool has_avx512_bf16();

// "avx512_bf16", "avx2" or "baseline".
const char* active_arch();

}  // namespace dlmcache::cpu
