// Every CPU loop, once per instruction set, behind one name.
#pragma once

#include <cstdint>

// DLMCACHE_DISPATCH_CPU(rms_norm_rows, RmsNormParams) defines dlmcache::cpu::rms_norm_rows, which calls the version
// compiled for the best instruction set that the processor has.
#if defined(__x86_64__) && !defined(DLMCACHE_CPU_BASELINE_ONLY)
#define DLMCACHE_DISPATCH_CPU(name, Params)                            \
  namespace dlmcache::cpu::avx2 {                                      \
  void name(const Params& p, int64_t begin, int64_t end);              \
  }                                                                    \
  namespace dlmcache::cpu::baseline {                                  \
  void name(const Params& p, int64_t begin, int64_t end);              \
  }                                                                    \
  namespace dlmcache::cpu {                                            \
  void name(const Params& p, int64_t begin, int64_t end) {             \
    static const auto best = has_avx2() ? avx2::name : baseline::name; \
    best(p, begin, end);                                               \
  }                                                                    \
  }
#else
#define DLMCACHE_DISPATCH_CPU(name, Params)                                                 \
  namespace dlmcache::cpu::baseline {                                                       \
  void name(const Params& p, int64_t begin, int64_t end);                                   \
  }                                                                                         \
  namespace dlmcache::cpu {                                                                 \
  void name(const Params& p, int64_t begin, int64_t end) { baseline::name(p, begin, end); } \
  }
#endif
