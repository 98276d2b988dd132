// Launches that a device refuses.
#include "tests/faults/fault_main.h"

namespace {

__global__ void empty_kernel() {}

void launch(dim3 grid, dim3 block, size_t shared_bytes) {
  DLMCACHE_LAUNCH(empty_kernel, grid, block, shared_bytes, nullptr);
}

template <bool kBug>
void empty_grid() {
  launch(dim3(kBug ? 0 : 1), 32, 0);
}

template <bool kBug>
void empty_block() {
  launch(1, dim3(32, kBug ? 0 : 1), 0);
}

template <bool kBug>
void too_many_threads() {
  launch(1, dim3(32, kBug ? 33 : 32), 0);
}

template <bool kBug>
void too_many_blocks_along_y() {
  launch(dim3(1, kBug ? 65536 : 65535), 1, 0);
}

template <bool kBug>
void too_many_blocks_along_x() {
  launch(dim3(kBug ? 0x80000000u : 1000u), 1, 0);
}

template <bool kBug>
void too_much_shared_memory() {
  launch(1, 32, 227 * 1024 + (kBug ? 1 : 0));
}

template <bool kBug>
__global__ void launching_kernel() {
  if (kBug) launch(1, 1, 0);
}

template <bool kBug>
void launch_from_a_kernel() {
  DLMCACHE_LAUNCH(launching_kernel<kBug>, 1, 1, 0, nullptr);
}

constexpr Fault kFaults[] = {
    {"empty_grid", empty_grid<true>, empty_grid<false>},
    {"empty_block", empty_block<true>, empty_block<false>},
    {"too_many_threads", too_many_threads<true>, too_many_threads<false>},
    {"too_many_blocks_along_x", too_many_blocks_along_x<true>, too_many_blocks_along_x<false>},
    {"too_many_blocks_along_y", too_many_blocks_along_y<true>, too_many_blocks_along_y<false>},
    {"too_much_shared_memory", too_much_shared_memory<true>, too_much_shared_memory<false>},
    {"launch_from_a_kernel", launch_from_a_kernel<true>, launch_from_a_kernel<false>},
};

}  // namespace

int main(int argc, char** argv) { return run_fault(argc, argv, kFaults); }
