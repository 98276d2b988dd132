// What the emulator is compiled for: sanitizers, way of switching stacks, limits of the emulated device.
#pragma once

#include <cstddef>
#include <cstdint>

#if defined(__SANITIZE_THREAD__)
#define DLMCACHE_EMULATION_TSAN 1
#endif
#if defined(__SANITIZE_ADDRESS__)
#define DLMCACHE_EMULATION_ASAN 1
#endif
#if defined(__has_feature)  // clang
#if __has_feature(thread_sanitizer)
#define DLMCACHE_EMULATION_TSAN 1
#endif
#if __has_feature(address_sanitizer)
#define DLMCACHE_EMULATION_ASAN 1
#endif
#endif

// The emulator's own bookkeeping is shared by all fibers without any ordering that ThreadSanitizer knows of, so each
// function that touches it carries this attribute. Kernels and the memory accesses they ask for stay instrumented.
#if defined(DLMCACHE_EMULATION_TSAN)
#define DLMCACHE_EMULATION_INTERNAL __attribute__((no_sanitize("thread")))
#else
#define DLMCACHE_EMULATION_INTERNAL
#endif

// Blocks are spread over the cores when OpenMP is on, except under a sanitizer: ThreadSanitizer does not understand
// libgomp, and AddressSanitizer guards plain static variables but not thread-local ones (see __shared__).
#if defined(_OPENMP) && !defined(DLMCACHE_EMULATION_TSAN) && !defined(DLMCACHE_EMULATION_ASAN)
#define DLMCACHE_EMULATION_OPENMP 1
#endif

#if !defined(__x86_64__) && !defined(DLMCACHE_EMULATION_UCONTEXT)
#define DLMCACHE_EMULATION_UCONTEXT 1
#endif

namespace dlmcache::emulation {

inline constexpr int kWarpSize = 32;
inline constexpr int kMaxThreadsPerBlock = 1024;
inline constexpr int kMaxWarpsPerBlock = kMaxThreadsPerBlock / kWarpSize;
inline constexpr uint32_t kMaxBlockDimZ = 64;
inline constexpr uint32_t kMaxGridDimX = 0x7fffffffu;
inline constexpr uint32_t kMaxGridDimYZ = 65535u;
inline constexpr size_t kMaxDynamicSharedBytes = 227 * 1024;  // sm_90 and sm_100; sm_80 has 163 KiB
inline constexpr size_t kSharedAlignment = 128;
inline constexpr size_t kStackBytes = 256 * 1024;  // reserved, not committed: only touched pages cost memory

}  // namespace dlmcache::emulation
