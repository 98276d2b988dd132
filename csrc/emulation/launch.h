// Launching: checks what a device would check, then runs the blocks of the grid, spread over the cores with OpenMP.
#pragma once

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <type_traits>

#include "emulation/barrier.h"
#include "emulation/block.h"
#include "emulation/warp.h"

namespace dlmcache::emulation {

// Order of the next launches; DLMCACHE_EMULATION_ORDER=reverse in the environment sets the initial one.
inline Order& launch_order() {
  static Order order = [] {
    const char* requested = std::getenv("DLMCACHE_EMULATION_ORDER");
    return requested && std::strcmp(requested, "reverse") == 0 ? Order::kReverse : Order::kForward;
  }();
  return order;
}

// The first function on every thread's stack. It is left only by switching away for good, hence no destructors here,
// and no instrumentation: ThreadSanitizer's shadow call stack would grow with every block.
DLMCACHE_EMULATION_INTERNAL inline void run_thread() {
  const void* host_bottom = nullptr;
  size_t host_bytes = 0;
  asan::finish_switch(nullptr, &host_bottom, &host_bytes);
  Block& block = *current_block;
  if (!block.host.stack_bottom) {
    block.host.stack_bottom = host_bottom;
    block.host.stack_bytes = host_bytes;
  }
  tsan::acquire(&block.start_sync);
  block.launch->call(block.launch->bound);
  tsan::release(&block.end_sync);

  Fiber& self = *current_fiber;
  self.has_returned = true;
  --block.num_live;
  Warp& warp = block.warps[self.warp];
  warp.live_lanes &= ~(1u << self.lane);
  leave_barrier(block);
  leave_warp(warp);
  switch_to_next();
  std::abort();  // not reached
}

// Grows what is kept between launches to the size of this one.
inline void reserve_threads(Block& block, int num_threads) {
  for (int i = static_cast<int>(block.fiber_storage.size()); i < num_threads; ++i) {
    block.stacks.emplace_back();
    block.fiber_storage.emplace_back();
    block.fiber_storage.back().context.tsan_fiber = tsan::create_fiber(i);
  }
  const size_t num_warps = (block.fiber_storage.size() + kWarpSize - 1) / kWarpSize;
  if (block.warp_storage.size() < num_warps) block.warp_storage.resize(num_warps);
  block.fibers = block.fiber_storage.data();
  block.warps = block.warp_storage.data();
}

DLMCACHE_EMULATION_INTERNAL inline void run_block(Block& block, const Launch& launch, int64_t linear_index) {
  const dim3 size = launch.block;
  block.launch = &launch;
  block.index = uint3{static_cast<unsigned>(linear_index % launch.grid.x),
                      static_cast<unsigned>(linear_index / launch.grid.x % launch.grid.y),
                      static_cast<unsigned>(linear_index / launch.grid.x / launch.grid.y)};
  block.num_threads = static_cast<int>(size.x * size.y * size.z);
  block.num_live = block.num_threads;
  block.barrier = Barrier{};

  const int num_warps = (block.num_threads + kWarpSize - 1) / kWarpSize;
  for (int warp = 0; warp < num_warps; ++warp) {
    const int num_lanes = std::min(block.num_threads - warp * kWarpSize, kWarpSize);
    block.warps[warp].live_lanes = num_lanes == kWarpSize ? ~0u : (1u << num_lanes) - 1;
  }
  // All ones are a NaN in every floating type: reading shared memory before writing it shows in the result.
  if (launch.shared_bytes > 0) std::memset(block.dynamic_shared, 0xff, launch.shared_bytes);

  for (int i = 0; i < block.num_threads; ++i) {
    Fiber& fiber = block.fibers[i];
    fiber.index = i;
    fiber.lane = i % kWarpSize;
    fiber.warp = i / kWarpSize;
    fiber.thread_index = uint3{i % size.x, i / size.x % size.y, i / (size.x * size.y)};
    fiber.has_returned = false;
    fiber.wait_word = nullptr;
    fiber.primitive = nullptr;
    fiber.mask = 0;
    fiber.async_copies.clear();
    fiber.async_group = 0;
    prepare_context(fiber.context, block.stacks.data()[i], run_thread);
  }

  // The host's writes before the launch are visible to every thread, and theirs to the host afterwards.
  block.host.tsan_fiber = tsan::current_fiber();
  block.host.stack_bottom = nullptr;
  Fiber& first = block.fibers[launch.order == Order::kForward ? 0 : block.num_threads - 1];
  tsan::release(&block.start_sync);
  current_fiber = &first;
  switch_context(block.host, first.context, false);
  tsan::acquire(&block.end_sync);
  block.launch = nullptr;
}

inline void check_launch(const Launch& launch) {
  const dim3 grid = launch.grid, block = launch.block;
  auto reject = [&](const char* reason) {
    std::fflush(stdout);
    std::fprintf(stderr,
                 "dlmcache emulation: error: invalid launch: %s\n  kernel %s, grid (%u,%u,%u), block (%u,%u,%u), %zu "
                 "bytes of dynamic shared memory, at ",
                 reason, launch.kernel, grid.x, grid.y, grid.z, block.x, block.y, block.z, launch.shared_bytes);
    print_location(launch.where);
    std::fprintf(stderr, "\n");
    std::fflush(stderr);
    std::abort();
  };
  if (current_fiber) reject("launched from inside a kernel");
  if (grid.x == 0 || grid.y == 0 || grid.z == 0) reject("a dimension of the grid is zero");
  if (block.x == 0 || block.y == 0 || block.z == 0) reject("a dimension of the block is zero");
  if (grid.x > kMaxGridDimX) reject("more than 2^31 - 1 blocks along x");
  if (grid.y > kMaxGridDimYZ || grid.z > kMaxGridDimYZ) reject("more than 65535 blocks along y or z");
  if (block.z > kMaxBlockDimZ) reject("more than 64 threads along z");
  if (uint64_t{block.x} * block.y > kMaxThreadsPerBlock ||
      uint64_t{block.x} * block.y * block.z > kMaxThreadsPerBlock) {
    reject("more than 1024 threads in a block");
  }
  if (launch.shared_bytes > kMaxDynamicSharedBytes) reject("more than 227 KiB of dynamic shared memory");
}

struct FreeMemory {
  void operator()(void* memory) const { std::free(memory); }
};

inline void run_grid(const Launch& launch) {
  check_launch(launch);
  const int64_t num_blocks = int64_t{launch.grid.x} * launch.grid.y * launch.grid.z;
#if defined(DLMCACHE_EMULATION_OPENMP)
#pragma omp parallel if (num_blocks > 1)
#endif
  {
    static thread_local Block block;
    reserve_threads(block, static_cast<int>(launch.block.x * launch.block.y * launch.block.z));
    // Of the exact size, so that AddressSanitizer sees an access one byte behind the end.
    void* shared = nullptr;
    if (posix_memalign(&shared, kSharedAlignment, launch.shared_bytes) != 0) std::abort();
    const std::unique_ptr<void, FreeMemory> owner(shared);
    block.dynamic_shared = static_cast<unsigned char*>(shared);
    current_block = &block;
#if defined(DLMCACHE_EMULATION_OPENMP)
#pragma omp for schedule(dynamic, 1)
#endif
    for (int64_t i = 0; i < num_blocks; ++i) {
      run_block(block, launch, launch.order == Order::kForward ? i : num_blocks - 1 - i);
    }
    current_block = nullptr;
  }
}

// Arguments are converted to the kernel's parameters as in a call, and each thread gets its own copy of them.
template <typename... Params>
void launch_kernel(const char* name, SourceLine where, void (*kernel)(Params...), dim3 grid, dim3 block,
                   size_t shared_bytes, std::type_identity_t<Params>... args) {
  static_assert(!(std::is_reference_v<Params> || ...), "kernels take their parameters by value");
  // Not std::bind or std::apply: their frames would bury the kernel's in every sanitizer report.
  const auto call = [kernel, args...] { kernel(args...); };
  using Call = decltype(call);
  run_grid({.kernel = name,
            .where = where,
            .grid = grid,
            .block = block,
            .shared_bytes = shared_bytes,
            .order = launch_order(),
            .call = [](const void* bound) { (*static_cast<Call*>(bound))(); },
            .bound = &call});
}

}  // namespace dlmcache::emulation
