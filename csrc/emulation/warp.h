// Meeting of the lanes of a warp: what every __*_sync primitive is made of.
//
// Each lane brings one value; when all lanes named in the mask, less those whose threads have returned, have come,
// each goes on and may read what the others brought. CUDA leaves undefined what is read from a lane that took no
// part; here all its bits are ones (NaN, -1), so that using it shows.
#pragma once

#include <new>
#include <type_traits>

#include "emulation/block.h"

namespace dlmcache::emulation {

alignas(16) inline constexpr unsigned char kUndefinedValue[kMaxExchangeBytes] = {
    0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
    0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff};

// Lets the gathered lanes go on.
DLMCACHE_EMULATION_INTERNAL inline void complete_meeting(LaneGroup& group) {
  const int parity = group.generation & 1;
  group.contributed[parity] = group.arrived;
  group.unread[parity] = group.arrived;
  group.arrived = 0;
  ++group.generation;
}

// The group of lanes that name `mask`: the one that is in use, or a free one.
DLMCACHE_EMULATION_INTERNAL inline LaneGroup& find_group(Warp& warp, uint32_t mask) {
  for (uint32_t left = warp.groups_in_use; left; left &= left - 1) {
    LaneGroup& group = warp.groups[__builtin_ctz(left)];
    if (group.mask == mask) return group;
  }
  const int free = __builtin_ctz(~warp.groups_in_use);
  warp.groups_in_use |= 1u << free;
  warp.groups[free].mask = mask;
  return warp.groups[free];
}

// A lane's part in one meeting. Construct, put, meet, get as often as wanted; the destructor tells that it has read.
class WarpMeeting {
 public:
  DLMCACHE_EMULATION_INTERNAL WarpMeeting(uint32_t mask, const char* primitive, size_t num_bytes, SourceLine where)
      : self_(*current_fiber), warp_(current_block->warps[self_.warp]) {
    enter_primitive(primitive, mask, where);
    if (!(mask >> self_.lane & 1u)) fail("%s: lane %d is not in its own mask 0x%08x", primitive, self_.lane, mask);
    check_masks(mask, primitive);
    group_ = &find_group(warp_, mask);
    generation_ = group_->generation;
    parity_ = generation_ & 1;
    if (!group_->arrived) {
      group_->primitive = primitive;
      group_->num_bytes = static_cast<uint32_t>(num_bytes);
    } else if (std::strcmp(group_->primitive, primitive) != 0) {
      fail("lanes with mask 0x%08x meet in different primitives, %s and %s", mask, group_->primitive, primitive);
    } else if (group_->num_bytes != num_bytes) {
      fail("%s: lanes with mask 0x%08x bring values of different sizes, %u and %zu bytes", primitive, mask,
           group_->num_bytes, num_bytes);
    }
  }
  WarpMeeting(const WarpMeeting&) = delete;
  WarpMeeting& operator=(const WarpMeeting&) = delete;

  DLMCACHE_EMULATION_INTERNAL ~WarpMeeting() {
    group_->unread[parity_] &= ~(1u << self_.lane);
    if (!group_->arrived && !group_->unread[0] && !group_->unread[1]) {
      warp_.groups_in_use &= ~(1u << (group_ - warp_.groups));
    }
  }

  template <typename T>
  DLMCACHE_EMULATION_INTERNAL void put(const T& value) {
    static_assert(std::is_trivially_copyable_v<T> && sizeof(T) <= kMaxExchangeBytes && alignof(T) <= 16);
    // A typed store, not memcpy: ThreadSanitizer intercepts memcpy even when it is called from here.
    new (group_->value[parity_][self_.lane]) T(value);
  }

  // `orders_memory`: what lanes wrote before is visible to the others after. Of all primitives only __syncwarp
  // promises that; code that relies on it at a shuffle has a race, and ThreadSanitizer shall say so.
  DLMCACHE_EMULATION_INTERNAL void meet(bool orders_memory = false) {
    LaneGroup& group = *group_;
    if (orders_memory) tsan::release(&group.sync[parity_][self_.lane]);
    group.arrived |= 1u << self_.lane;
    if (group.arrived == (group.mask & warp_.live_lanes)) {
      complete_meeting(group);
    } else {
      wait_until(&group.generation, generation_, false);
    }
    if (orders_memory) {
      for (uint32_t left = contributed(); left; left &= left - 1) {
        tsan::acquire(&group.sync[parity_][__builtin_ctz(left)]);
      }
    }
  }

  DLMCACHE_EMULATION_INTERNAL uint32_t contributed() const { return group_->contributed[parity_]; }

  template <typename T>
  DLMCACHE_EMULATION_INTERNAL T get(int lane) const {
    const bool is_defined = lane >= 0 && lane < kWarpSize && (contributed() >> lane & 1u);
    const unsigned char* bytes = is_defined ? group_->value[parity_][lane] : kUndefinedValue;
    return *std::launder(reinterpret_cast<const T*>(bytes));
  }

 private:
  // Lanes may wait in groups with different masks at the same time, but not two lanes each for the other one.
  DLMCACHE_EMULATION_INTERNAL void check_masks(uint32_t mask, const char* primitive) const {
    for (uint32_t left = warp_.groups_in_use; left; left &= left - 1) {
      const LaneGroup& other = warp_.groups[__builtin_ctz(left)];
      if (other.mask != mask && (other.mask >> self_.lane & 1u) && (other.arrived & mask)) {
        fail("%s: lane %d names mask 0x%08x, but lane %d waits for it with mask 0x%08x", primitive, self_.lane, mask,
             __builtin_ctz(other.arrived & mask), other.mask);
      }
    }
  }

  Fiber& self_;
  Warp& warp_;
  LaneGroup* group_;
  uint32_t generation_;
  int parity_;
};

// Called when a thread has returned: groups of its warp may have waited only for it.
DLMCACHE_EMULATION_INTERNAL inline void leave_warp(Warp& warp) {
  for (uint32_t left = warp.groups_in_use; left; left &= left - 1) {
    LaneGroup& group = warp.groups[__builtin_ctz(left)];
    if (group.arrived && group.arrived == (group.mask & warp.live_lanes)) complete_meeting(group);
  }
}

}  // namespace dlmcache::emulation
