// __syncthreads and its reducing variants. Threads that have returned do not count.
#pragma once

#include "emulation/block.h"

namespace dlmcache::emulation {

DLMCACHE_EMULATION_INTERNAL inline void open_barrier(Block& block) {
  Barrier& barrier = block.barrier;
  const int parity = barrier.generation & 1;
  barrier.num_threads[parity] = static_cast<int>(barrier.num_arrived);
  barrier.num_true[parity ^ 1] = 0;  // its readers have all arrived here
  barrier.num_arrived = 0;
  ++barrier.generation;
}

struct BarrierResult {
  int num_true;
  int num_threads;
};

DLMCACHE_EMULATION_INTERNAL inline BarrierResult wait_at_barrier(bool predicate, const char* primitive,
                                                                 SourceLine where) {
  enter_primitive(primitive, 0, where);
  Block& block = *current_block;
  Barrier& barrier = block.barrier;
  // Hardware would let these two barriers stand for each other; CUDA leaves it undefined, and it is never meant.
  if (barrier.num_arrived > 0 && !same_line(barrier.where, where)) {
    fail("divergent barrier: threads of one block wait at different %s", primitive);
  }
  const uint32_t generation = barrier.generation;
  const int parity = generation & 1;
  barrier.primitive = primitive;
  barrier.where = where;
  barrier.num_true[parity] += predicate ? 1 : 0;
  tsan::release(&barrier.sync[parity]);
  if (++barrier.num_arrived == static_cast<uint32_t>(block.num_live)) {
    open_barrier(block);
  } else {
    wait_until(&barrier.generation, generation, false);
  }
  tsan::acquire(&barrier.sync[parity]);
  return {barrier.num_true[parity], barrier.num_threads[parity]};
}

// Called when a thread has returned: it may have been the last one that a barrier was waiting for.
DLMCACHE_EMULATION_INTERNAL inline void leave_barrier(Block& block) {
  const uint32_t num_arrived = block.barrier.num_arrived;
  if (num_arrived > 0 && num_arrived == static_cast<uint32_t>(block.num_live)) open_barrier(block);
}

}  // namespace dlmcache::emulation
