// What the instructions behind cuda/tensor_core.cuh compute. Data moves between lanes exactly as the PTX manual lays
// out the fragments; the sum over k is in float and in order, so it differs from a device's in the last bits.
#pragma once

#include <cstdint>
#include <cstring>

#include "dlmcache/dtype.h"
#include "emulation/warp.h"

namespace dlmcache::emulation {

inline constexpr uint32_t kAllLanes = 0xffffffffu;

inline void check_whole_warp(const WarpMeeting& meeting, const char* instruction) {
  if (meeting.contributed() != kAllLanes) fail("%s: not all lanes of the warp take part", instruction);
}

// Element `half` (0: lower) of a word.
template <typename scalar_t>
float unpack(uint32_t word, int half) {
  return to_float(scalar_t{static_cast<uint16_t>(word >> (16 * half))});
}

template <typename scalar_t>
void mma_m16n8k16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2],
                  SourceLine where = SourceLine::current()) {
  struct Fragments {
    uint32_t a[4], b[2];
  };
  WarpMeeting meeting(kAllLanes, "mma.sync", sizeof(Fragments), where);
  meeting.put(Fragments{{a[0], a[1], a[2], a[3]}, {b[0], b[1]}});
  meeting.meet();
  check_whole_warp(meeting, "mma.sync");

  const int row = lane_index() / 4, column = lane_index() % 4 * 2;
  for (int k_half = 0; k_half < 2; ++k_half) {
    for (int t = 0; t < 4; ++t) {  // k = 8 k_half + 2 t, + 1
      const Fragments rows = meeting.get<Fragments>(4 * row + t);
      const Fragments left = meeting.get<Fragments>(4 * column + t), right = meeting.get<Fragments>(4 * column + 4 + t);
      for (int pair = 0; pair < 2; ++pair) {
        const float upper = unpack<scalar_t>(rows.a[2 * k_half], pair);
        const float lower = unpack<scalar_t>(rows.a[2 * k_half + 1], pair);
        const float left_b = unpack<scalar_t>(left.b[k_half], pair);
        const float right_b = unpack<scalar_t>(right.b[k_half], pair);
        d[0] += upper * left_b;
        d[1] += upper * right_b;
        d[2] += lower * left_b;
        d[3] += lower * right_b;
      }
    }
  }
}

template <bool kTransposed>
void ldmatrix_x4(uint32_t (&words)[4], const void* row, SourceLine where = SourceLine::current()) {
  if (reinterpret_cast<uintptr_t>(row) % 16 != 0) fail("ldmatrix: row address %p is not a multiple of 16", row);
  WarpMeeting meeting(kAllLanes, "ldmatrix", sizeof(row), where);
  meeting.put(row);
  meeting.meet();
  check_whole_warp(meeting, "ldmatrix");
  const int quad = lane_index() / 4, pair = lane_index() % 4 * 2;
  for (int matrix = 0; matrix < 4; ++matrix) {
    uint16_t element[2];
    for (int i = 0; i < 2; ++i) {
      const int from_row = kTransposed ? pair + i : quad, from_column = kTransposed ? quad : pair + i;
      element[i] = static_cast<const uint16_t*>(meeting.get<const void*>(8 * matrix + from_row))[from_column];
    }
    words[matrix] = uint32_t{element[1]} << 16 | element[0];
  }
}

// The device writes at any time between the start of a copy and the wait for it. Here the target becomes NaN at the
// start and gets its data at the wait: whoever reads in between sees that, and ThreadSanitizer sees both writes.
inline void cp_async16(void* shared, const void* global, bool valid) {
  if (reinterpret_cast<uintptr_t>(shared) % 16 != 0 || reinterpret_cast<uintptr_t>(global) % 16 != 0) {
    fail("cp.async: addresses %p and %p are not multiples of 16", shared, global);
  }
  std::memset(shared, 0xff, 16);
  if (valid) {
    // An address out of bounds is reported here, where it comes from, and not at the wait.
    const volatile unsigned char* bytes = static_cast<const volatile unsigned char*>(global);
    (void)bytes[0];
    (void)bytes[15];
  }
  Fiber& self = running_fiber();
  self.async_copies.push_back({shared, valid ? global : nullptr, self.async_group});
}

inline void cp_async_commit() { ++running_fiber().async_group; }

inline void cp_async_wait(int num_groups_under_way) {
  Fiber& self = running_fiber();
  std::vector<AsyncCopy> under_way;
  for (const AsyncCopy& copy : self.async_copies) {
    if (copy.group >= self.async_group - num_groups_under_way) {
      under_way.push_back(copy);
    } else if (copy.source) {
      std::memcpy(copy.destination, copy.source, 16);
    } else {
      std::memset(copy.destination, 0, 16);
    }
  }
  self.async_copies.swap(under_way);
}

}  // namespace dlmcache::emulation
