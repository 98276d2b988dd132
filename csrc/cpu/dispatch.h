// Every CPU loop, once per instruction set, behind one name.
#pragma once

#include <cstdint>

// DLMCACHE_DISPATCH_CPU(rms_norm_rows, RmsNormParams) defines dlmcache::cpu::rms_norm_rows, which calls the version
// compiled for the best instruction set that the processor has. DLMCACHE_DISPATCH_CPU_BF16 does the same for loops of
// files that are compiled for avx512_bf16 too; setup.py and CMakeLists.txt list them.
#define DLMCACHE_DECLARE_CPU(arch, name, Params)          \
  namespace dlmcache::cpu::arch {                         \
  void name(const Params& p, int64_t begin, int64_t end); \
  }
#define DLMCACHE_DEFINE_CPU(name, Params, choice)          \
  namespace dlmcache::cpu {                                \
  void name(const Params& p, int64_t begin, int64_t end) { \
    static const auto best = choice;                       \
    best(p, begin, end);                                   \
  }                                                        \
  }

#if defined(__x86_64__) && !defined(DLMCACHE_CPU_BASELINE_ONLY)
#define DLMCACHE_DISPATCH_CPU(name, Params)    \
  DLMCACHE_DECLARE_CPU(avx2, name, Params)     \
  DLMCACHE_DECLARE_CPU(baseline, name, Params) \
  DLMCACHE_DEFINE_CPU(name, Params, has_avx2() ? avx2::name : baseline::name)
#define DLMCACHE_DISPATCH_CPU_BF16(name, Params)  \
  DLMCACHE_DECLARE_CPU(avx512_bf16, name, Params) \
  DLMCACHE_DECLARE_CPU(avx2, name, Params)        \
  DLMCACHE_DECLARE_CPU(baseline, name, Params)    \
  DLMCACHE_DEFINE_CPU(name, Params, has_avx512_bf16() ? avx512_bf16::name : has_avx2() ? avx2::name : baseline::name)
#else
#define DLMCACHE_DISPATCH_CPU(name, Params)    \
  DLMCACHE_DECLARE_CPU(baseline, name, Params) \
  DLMCACHE_DEFINE_CPU(name, Params, baseline::name)
#define DLMCACHE_DISPATCH_CPU_BF16(name, Params) DLMCACHE_DISPATCH_CPU(name, Params)
#endif
