// The __*_sync primitives under their CUDA names. __activemask is left out: its value depends on how the hardware
// happens to schedule, so no kernel may use it.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <type_traits>

#include "emulation/warp.h"

namespace dlmcache::emulation {

// What a shuffle accepts and returns: CUDA's overloads, narrow integers promoted as in a call of those.
template <typename T>
concept ShuffleArithmetic = std::is_arithmetic_v<T> && sizeof(T) <= 8;
template <typename T>
concept ShuffleHalf = std::is_same_v<T, __half> || std::is_same_v<T, __half2> || std::is_same_v<T, __nv_bfloat16> ||
                      std::is_same_v<T, __nv_bfloat162>;

template <typename T>
struct ShuffleType {  // the 16-bit types travel as bits: their pairs are not trivially copyable
  using Result = T;
  using Carrier = std::conditional_t<sizeof(T) == 2, uint16_t, uint32_t>;
};
template <ShuffleArithmetic T>
struct ShuffleType<T> {
  using Result = decltype(+T{});
  using Carrier = Result;
};

inline void check_shuffle_width(const char* primitive, int width) {
  if (width < 1 || width > kWarpSize || (width & (width - 1)) != 0) {
    fail("%s: width %d is not a power of two up to 32", primitive, width);
  }
}

// `source_of(lane)` names the lane to read from.
template <typename T, typename SourceOf>
auto shuffle(uint32_t mask, T value, int width, const char* primitive, SourceLine where, SourceOf source_of) {
  using Result = typename ShuffleType<T>::Result;
  using Carrier = typename ShuffleType<T>::Carrier;
  check_shuffle_width(primitive, width);
  Result result = value;
  Carrier carrier;
  std::memcpy(&carrier, static_cast<const void*>(&result), sizeof(carrier));
  WarpMeeting meeting(mask, primitive, sizeof(carrier), where);
  meeting.put(carrier);
  meeting.meet();
  carrier = meeting.get<Carrier>(source_of(lane_index()));
  std::memcpy(static_cast<void*>(&result), &carrier, sizeof(result));
  return result;
}

// Folds the values of all lanes that took part, lowest lane first.
template <typename T, typename Combine>
T reduce(uint32_t mask, T value, const char* primitive, SourceLine where, Combine combine) {
  WarpMeeting meeting(mask, primitive, sizeof(T), where);
  meeting.put(value);
  meeting.meet();
  const uint32_t lanes = meeting.contributed();
  T result = meeting.get<T>(__builtin_ctz(lanes));
  for (int lane = __builtin_ctz(lanes) + 1; lane < kWarpSize; ++lane) {
    if (lanes >> lane & 1u) result = combine(result, meeting.get<T>(lane));
  }
  return result;
}

struct Vote {
  uint32_t lanes;  // that took part
  uint32_t votes;  // those of them whose predicate holds
};

inline Vote vote(uint32_t mask, int predicate, const char* primitive, SourceLine where) {
  WarpMeeting meeting(mask, primitive, sizeof(int), where);
  meeting.put(predicate);
  meeting.meet();
  Vote result{meeting.contributed(), 0};
  for (int lane = 0; lane < kWarpSize; ++lane) {
    if ((result.lanes >> lane & 1u) && meeting.get<int>(lane) != 0) result.votes |= 1u << lane;
  }
  return result;
}

}  // namespace dlmcache::emulation

#define DLMCACHE_EMULATION_WHERE ::dlmcache::emulation::SourceLine where = ::dlmcache::emulation::SourceLine::current()

inline void __syncwarp(unsigned mask = 0xffffffffu, DLMCACHE_EMULATION_WHERE) {
  dlmcache::emulation::WarpMeeting meeting(mask, "__syncwarp", 0, where);
  meeting.meet(true);
}

// ---------------------------------------------------------------------------------------------------------- shuffles
// `width` cuts the warp into groups of lanes; shuffles that would leave the own group return the own value.

template <typename T>
  requires dlmcache::emulation::ShuffleArithmetic<T> || dlmcache::emulation::ShuffleHalf<T>
auto __shfl_sync(unsigned mask, T value, int source, int width = 32, DLMCACHE_EMULATION_WHERE) {
  return dlmcache::emulation::shuffle(mask, value, width, "__shfl_sync", where,
                                      [=](int lane) { return (lane & ~(width - 1)) | (source & (width - 1)); });
}

template <typename T>
  requires dlmcache::emulation::ShuffleArithmetic<T> || dlmcache::emulation::ShuffleHalf<T>
auto __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32, DLMCACHE_EMULATION_WHERE) {
  return dlmcache::emulation::shuffle(mask, value, width, "__shfl_up_sync", where, [=](int lane) {
    const int64_t within = int64_t{lane & (width - 1)} - delta;
    return within >= 0 ? lane - static_cast<int>(delta) : lane;
  });
}

template <typename T>
  requires dlmcache::emulation::ShuffleArithmetic<T> || dlmcache::emulation::ShuffleHalf<T>
auto __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32, DLMCACHE_EMULATION_WHERE) {
  return dlmcache::emulation::shuffle(mask, value, width, "__shfl_down_sync", where, [=](int lane) {
    const int64_t within = int64_t{lane & (width - 1)} + delta;
    return within < width ? lane + static_cast<int>(delta) : lane;
  });
}

// Unlike the others, xor may read from a group before the own one, but not from one behind it (PTX shfl.bfly).
template <typename T>
  requires dlmcache::emulation::ShuffleArithmetic<T> || dlmcache::emulation::ShuffleHalf<T>
auto __shfl_xor_sync(unsigned mask, T value, int lane_mask, int width = 32, DLMCACHE_EMULATION_WHERE) {
  return dlmcache::emulation::shuffle(mask, value, width, "__shfl_xor_sync", where, [=](int lane) {
    const int source = lane ^ lane_mask;
    return source <= (lane | (width - 1)) ? source : lane;
  });
}

// ------------------------------------------------------------------------------------------------------------- votes

inline unsigned __ballot_sync(unsigned mask, int predicate, DLMCACHE_EMULATION_WHERE) {
  return dlmcache::emulation::vote(mask, predicate, "__ballot_sync", where).votes;
}

inline int __any_sync(unsigned mask, int predicate, DLMCACHE_EMULATION_WHERE) {
  return dlmcache::emulation::vote(mask, predicate, "__any_sync", where).votes != 0;
}

inline int __all_sync(unsigned mask, int predicate, DLMCACHE_EMULATION_WHERE) {
  const auto result = dlmcache::emulation::vote(mask, predicate, "__all_sync", where);
  return result.votes == result.lanes;
}

// The lanes whose value equals the caller's.
template <dlmcache::emulation::ShuffleArithmetic T>
unsigned __match_any_sync(unsigned mask, T value, DLMCACHE_EMULATION_WHERE) {
  dlmcache::emulation::WarpMeeting meeting(mask, "__match_any_sync", sizeof(T), where);
  meeting.put(value);
  meeting.meet();
  unsigned equal = 0;
  for (int lane = 0; lane < dlmcache::emulation::kWarpSize; ++lane) {
    // CUDA compares bits, so that NaN matches NaN.
    if (!(meeting.contributed() >> lane & 1u)) continue;
    const T other = meeting.get<T>(lane);
    if (std::memcmp(&other, &value, sizeof(T)) == 0) equal |= 1u << lane;
  }
  return equal;
}

// -------------------------------------------------------------------------------------------------------- reductions

#define DLMCACHE_EMULATION_REDUCE(name, T, expression)                                                         \
  inline T name(unsigned mask, T value, DLMCACHE_EMULATION_WHERE) {                                            \
    return dlmcache::emulation::reduce(mask, value, #name, where, [](T a, T b) -> T { return (expression); }); \
  }

DLMCACHE_EMULATION_REDUCE(__reduce_add_sync, unsigned, a + b)
// Through unsigned: the hardware wraps around where C++ leaves signed overflow undefined.
DLMCACHE_EMULATION_REDUCE(__reduce_add_sync, int, static_cast<int>(static_cast<unsigned>(a) + static_cast<unsigned>(b)))
DLMCACHE_EMULATION_REDUCE(__reduce_min_sync, unsigned, a < b ? a : b)
DLMCACHE_EMULATION_REDUCE(__reduce_min_sync, int, a < b ? a : b)
DLMCACHE_EMULATION_REDUCE(__reduce_max_sync, unsigned, a > b ? a : b)
DLMCACHE_EMULATION_REDUCE(__reduce_max_sync, int, a > b ? a : b)
DLMCACHE_EMULATION_REDUCE(__reduce_and_sync, unsigned, a& b)
DLMCACHE_EMULATION_REDUCE(__reduce_or_sync, unsigned, a | b)
DLMCACHE_EMULATION_REDUCE(__reduce_xor_sync, unsigned, a ^ b)

#undef DLMCACHE_EMULATION_REDUCE
#undef DLMCACHE_EMULATION_WHERE
