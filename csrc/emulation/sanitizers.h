// What the sanitizers have to be told about fibers. Without a sanitizer every function here is empty.
//
// All of them are forced inline: ThreadSanitizer keeps a shadow call stack per fiber, and a function that is entered
// on one fiber and left on another would corrupt both.
#pragma once

#include <cstdio>

#include "emulation/config.h"

#if defined(DLMCACHE_EMULATION_TSAN)
#include <sanitizer/tsan_interface.h>
#endif
#if defined(DLMCACHE_EMULATION_ASAN)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

#define DLMCACHE_EMULATION_INLINE DLMCACHE_EMULATION_INTERNAL __attribute__((always_inline)) inline

namespace dlmcache::emulation::tsan {

#if defined(DLMCACHE_EMULATION_TSAN)

DLMCACHE_EMULATION_INLINE void* current_fiber() { return __tsan_get_current_fiber(); }
// Named, in reports, after the CUDA thread that it runs in every block.
DLMCACHE_EMULATION_INLINE void* create_fiber(int thread) {
  void* fiber = __tsan_create_fiber(0);
  char name[32];
  std::snprintf(name, sizeof(name), "CUDA thread %d", thread);
  __tsan_set_fiber_name(fiber, name);
  return fiber;
}
DLMCACHE_EMULATION_INLINE void destroy_fiber(void* fiber) { __tsan_destroy_fiber(fiber); }
// Switching orders nothing: although fibers run one after another on one OS thread, only release and acquire below,
// which barriers call, make one thread's writes visible to another. So every race is found, whatever the schedule.
DLMCACHE_EMULATION_INLINE void switch_to_fiber(void* fiber) {
  __tsan_switch_to_fiber(fiber, __tsan_switch_to_fiber_no_sync);
}
DLMCACHE_EMULATION_INLINE void release(void* object) { __tsan_release(object); }
DLMCACHE_EMULATION_INLINE void acquire(void* object) { __tsan_acquire(object); }

#else

DLMCACHE_EMULATION_INLINE void* current_fiber() { return nullptr; }
DLMCACHE_EMULATION_INLINE void* create_fiber(int) { return nullptr; }
DLMCACHE_EMULATION_INLINE void destroy_fiber(void*) {}
DLMCACHE_EMULATION_INLINE void switch_to_fiber(void*) {}
DLMCACHE_EMULATION_INLINE void release(void*) {}
DLMCACHE_EMULATION_INLINE void acquire(void*) {}

#endif

}  // namespace dlmcache::emulation::tsan

namespace dlmcache::emulation::asan {

#if defined(DLMCACHE_EMULATION_ASAN)

// `fake_stack` receives what finish_switch wants back when the left fiber resumes; nullptr: it never will.
DLMCACHE_EMULATION_INLINE void start_switch(void** fake_stack, const void* bottom, size_t bytes) {
  __sanitizer_start_switch_fiber(fake_stack, bottom, bytes);
}
DLMCACHE_EMULATION_INLINE void finish_switch(void* fake_stack, const void** from_bottom, size_t* from_bytes) {
  __sanitizer_finish_switch_fiber(fake_stack, from_bottom, from_bytes);
}
DLMCACHE_EMULATION_INLINE void unpoison(void* begin, size_t bytes) { __asan_unpoison_memory_region(begin, bytes); }

#else

DLMCACHE_EMULATION_INLINE void start_switch(void**, const void*, size_t) {}
DLMCACHE_EMULATION_INLINE void finish_switch(void*, const void**, size_t*) {}
DLMCACHE_EMULATION_INLINE void unpoison(void*, size_t) {}

#endif

}  // namespace dlmcache::emulation::asan
