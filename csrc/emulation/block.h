// One thread block: its threads as fibers, and the scheduler that runs them in turn.
//
// Exactly one thread of a block runs at any time. It gives way only where it has to wait, at a barrier or at a warp
// primitive; the next thread that is able to run follows in index order. When none is, the block is deadlocked and
// the emulator says who waits where.
#pragma once

#include <vector_types.h>

#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <source_location>
#include <vector>

#include "emulation/config.h"
#include "emulation/context.h"
#include "emulation/sanitizers.h"

namespace dlmcache::emulation {

// The place in the kernel where a primitive stands; a default argument of every primitive fills it in.
using SourceLine = std::source_location;

// The order in which the threads of a block and the blocks of a grid run. A right kernel gives the same result in
// both; a missing barrier or a dependence between blocks often does not, even without a sanitizer.
enum class Order { kForward, kReverse };

// A 16-byte copy from global to shared memory that has been started but not awaited (tensor_core.h).
struct AsyncCopy {
  void* destination;
  const void* source;  // nullptr: zeros
  int group;
};

// One CUDA thread.
struct Fiber {
  Context context;
  uint3 thread_index;
  int index;  // within the block
  int lane;
  int warp;
  bool has_returned;

  // While waiting: the thread can go on when (*wait_word == wait_value) == wait_for_equal.
  const uint32_t* wait_word;
  uint32_t wait_value;
  bool wait_for_equal;

  // For reports: the primitive that the thread is in or was in last.
  const char* primitive;
  uint32_t mask;  // of lanes; 0 for a primitive of the whole block
  SourceLine where;

  std::vector<AsyncCopy> async_copies;
  int async_group;
};

// State of __syncthreads and its reducing variants. What belongs to one passage of the barrier exists twice, for even
// and odd generations: a thread may reach the next barrier before a slower one has left this one, but never the one
// after that.
struct Barrier {
  uint32_t generation;
  uint32_t num_arrived;
  const char* primitive;  // of the first thread that arrived
  SourceLine where;
  int num_true[2];        // predicates
  int num_threads[2];     // that took part
  unsigned char sync[2];  // objects for ThreadSanitizer
};

inline constexpr size_t kMaxExchangeBytes = 32;

// Lanes that meet in a warp primitive: those that name one mask. What belongs to one meeting exists twice, as above.
struct LaneGroup {
  uint32_t mask;
  uint32_t generation;
  uint32_t arrived;  // lanes now gathering
  const char* primitive;
  uint32_t num_bytes;  // that each of them brings
  uint32_t contributed[2];
  uint32_t unread[2];                // lanes that still have to look at the result
  unsigned char sync[2][kWarpSize];  // objects for ThreadSanitizer: what each lane wrote before __syncwarp
  alignas(16) unsigned char value[2][kWarpSize][kMaxExchangeBytes];
};

// A lane is in at most one meeting, so 32 groups always suffice.
struct Warp {
  uint32_t live_lanes;     // that have not returned
  uint32_t groups_in_use;  // gathering or unread
  LaneGroup groups[kWarpSize];
};

// Where and with what a kernel was launched.
struct Launch {
  const char* kernel;
  SourceLine where;
  dim3 grid;
  dim3 block;
  size_t shared_bytes;
  Order order;
  void (*call)(const void* bound);  // runs the kernel's body as one thread
  const void* bound;                // the kernel and its arguments
};

// Stacks and warp state are kept from block to block and launch to launch: one Block per host thread.
struct Block {
  const Launch* launch = nullptr;
  uint3 index{};
  int num_threads = 0;
  int num_live = 0;  // threads that have not returned
  // Plain pointers into the vectors below: those have functions that ThreadSanitizer instruments.
  Fiber* fibers = nullptr;
  Warp* warps = nullptr;
  Barrier barrier{};
  unsigned char* dynamic_shared = nullptr;
  Context host;  // the host thread that runs the block
  unsigned char start_sync = 0;
  unsigned char end_sync = 0;
  std::vector<Fiber> fiber_storage;
  std::vector<Warp> warp_storage;
  std::vector<Stack> stacks;

  Block() = default;
  Block(const Block&) = delete;
  Block& operator=(const Block&) = delete;
  ~Block() {
    for (Fiber& fiber : fiber_storage) {
      if (fiber.context.tsan_fiber) tsan::destroy_fiber(fiber.context.tsan_fiber);
    }
  }
};

inline constinit thread_local Block* current_block = nullptr;
inline constinit thread_local Fiber* current_fiber = nullptr;

// Accessors for code that ThreadSanitizer instruments.
DLMCACHE_EMULATION_INTERNAL inline uint3 thread_index() { return current_fiber->thread_index; }
DLMCACHE_EMULATION_INTERNAL inline uint3 block_index() { return current_block->index; }
DLMCACHE_EMULATION_INTERNAL inline dim3 block_dim() { return current_block->launch->block; }
DLMCACHE_EMULATION_INTERNAL inline dim3 grid_dim() { return current_block->launch->grid; }
DLMCACHE_EMULATION_INTERNAL inline Fiber& running_fiber() { return *current_fiber; }
DLMCACHE_EMULATION_INTERNAL inline int lane_index() { return current_fiber->lane; }
DLMCACHE_EMULATION_INTERNAL inline unsigned char* dynamic_shared() { return current_block->dynamic_shared; }

// ------------------------------------------------------------------------------------------------------ diagnostics

DLMCACHE_EMULATION_INTERNAL inline void print_location(const SourceLine& where) {
  std::fprintf(stderr, "%s:%u", where.file_name(), static_cast<unsigned>(where.line()));
}

DLMCACHE_EMULATION_INTERNAL inline bool same_line(const SourceLine& a, const SourceLine& b) {
  return a.line() == b.line() && a.column() == b.column() && std::strcmp(a.file_name(), b.file_name()) == 0;
}

// Threads that did the same thing last, as ranges: "threads 0-31, 64 wait at __syncthreads, norm.cuh:31".
DLMCACHE_EMULATION_INTERNAL inline void print_threads(const Block& block) {
  static constexpr int kMaxRanges = 16;
  bool printed[kMaxThreadsPerBlock] = {};
  for (int first = 0; first < block.num_threads; ++first) {
    if (printed[first]) continue;
    const Fiber& model = block.fibers[first];
    auto is_like_model = [&](const Fiber& other) {
      if (other.has_returned || model.has_returned) return other.has_returned == model.has_returned;
      if (!other.primitive || !model.primitive) return other.primitive == model.primitive;
      return !other.wait_word == !model.wait_word && other.mask == model.mask && same_line(other.where, model.where);
    };
    std::fprintf(stderr, "  threads");
    int num_ranges = 0;
    for (int begin = first; begin < block.num_threads; ++begin) {
      if (printed[begin] || !is_like_model(block.fibers[begin])) continue;
      int end = begin;
      while (end < block.num_threads && !printed[end] && is_like_model(block.fibers[end])) printed[end++] = true;
      if (++num_ranges > kMaxRanges) continue;
      std::fprintf(stderr, begin + 1 == end ? "%s %d" : "%s %d-%d", num_ranges > 1 ? "," : "", begin, end - 1);
    }
    if (num_ranges > kMaxRanges) std::fprintf(stderr, ", ...");
    if (model.has_returned) {
      std::fprintf(stderr, " have returned\n");
    } else if (!model.primitive) {
      std::fprintf(stderr, " have met no barrier or warp primitive yet\n");
    } else {
      std::fprintf(stderr, model.wait_word ? " wait at %s" : " were last at %s", model.primitive);
      if (model.mask) std::fprintf(stderr, " with mask 0x%08x", model.mask);
      std::fprintf(stderr, ", ");
      print_location(model.where);
      std::fprintf(stderr, "\n");
    }
  }
}

// Says what is wrong, where, and what every thread of the block is doing; then aborts.
[[noreturn]] __attribute__((format(printf, 1, 2))) DLMCACHE_EMULATION_INTERNAL inline void fail(const char* format,
                                                                                                ...) {
  std::fflush(stdout);
  std::fprintf(stderr, "dlmcache emulation: error: ");
  va_list arguments;
  va_start(arguments, format);
  std::vfprintf(stderr, format, arguments);
  va_end(arguments);
  std::fprintf(stderr, "\n");
  if (const Block* block = current_block; block && block->launch) {
    std::fprintf(stderr, "  in kernel %s, launched at ", block->launch->kernel);
    print_location(block->launch->where);
    std::fprintf(stderr, ", block (%u,%u,%u)", block->index.x, block->index.y, block->index.z);
    if (const Fiber* fiber = current_fiber) {
      std::fprintf(stderr, ", thread (%u,%u,%u) = %d of %d", fiber->thread_index.x, fiber->thread_index.y,
                   fiber->thread_index.z, fiber->index, block->num_threads);
    }
    std::fprintf(stderr, "\n");
    print_threads(*block);
  }
  std::fflush(stderr);
  std::abort();
}

// -------------------------------------------------------------------------------------------------------- scheduling

DLMCACHE_EMULATION_INTERNAL inline bool can_run(const Fiber& fiber) {
  if (fiber.has_returned) return false;
  return !fiber.wait_word || (*fiber.wait_word == fiber.wait_value) == fiber.wait_for_equal;
}

// Continues the next thread that can run, in the launch's order; the host when all have returned.
DLMCACHE_EMULATION_INTERNAL inline void switch_to_next() {
  Block& block = *current_block;
  Fiber& self = *current_fiber;
  const int step = block.launch->order == Order::kForward ? 1 : -1;
  int candidate = self.index;
  for (int tried = 0; tried < block.num_threads; ++tried) {
    candidate += step;
    if (candidate >= block.num_threads) candidate = 0;
    if (candidate < 0) candidate = block.num_threads - 1;
    Fiber& next = block.fibers[candidate];
    if (!can_run(next)) continue;
    if (&next == &self) return;
    current_fiber = &next;
    switch_context(self.context, next.context, self.has_returned);
    return;
  }
  if (block.num_live > 0) fail("DEADLOCK: every thread waits for another one");
  current_fiber = nullptr;
  switch_context(self.context, block.host, true);
}

// Notes, for reports, which primitive the running thread has reached.
DLMCACHE_EMULATION_INTERNAL inline void enter_primitive(const char* primitive, uint32_t mask, SourceLine where) {
  Fiber& self = *current_fiber;
  self.primitive = primitive;
  self.mask = mask;
  self.where = where;
}

// Suspends the running thread until *word equals `value` (`equal`), or until it no longer does.
DLMCACHE_EMULATION_INTERNAL inline void wait_until(const uint32_t* word, uint32_t value, bool equal) {
  Fiber& self = *current_fiber;
  self.wait_word = word;
  self.wait_value = value;
  self.wait_for_equal = equal;
  if (!can_run(self)) switch_to_next();
  self.wait_word = nullptr;
}

}  // namespace dlmcache::emulation
