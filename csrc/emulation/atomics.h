// CUDA's atomics with exactly CUDA's overloads, so that what compiles here compiles under nvcc: 64-bit integers are
// `unsigned long long`, not uint64_t. As on the device they order nothing but themselves.
#pragma once

#include <bit>
#include <cstdint>
#include <type_traits>

namespace dlmcache::emulation {

// The unsigned integer with which the processor exchanges a T.
template <typename T>
using AtomicWord = std::conditional_t<sizeof(T) == 4, uint32_t, uint64_t>;

// *address = update(*address), returning the old value. Compares bits, so that NaN and -0.0 behave.
template <typename T, typename Update>
T atomic_update(T* address, Update update) {
  static_assert(sizeof(T) == 4 || sizeof(T) == 8);
  using Word = AtomicWord<T>;
  auto* word = reinterpret_cast<Word __attribute__((may_alias))*>(address);
  Word seen = __atomic_load_n(word, __ATOMIC_RELAXED);
  for (;;) {
    const Word next = std::bit_cast<Word>(static_cast<T>(update(std::bit_cast<T>(seen))));
    if (__atomic_compare_exchange_n(word, &seen, next, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {
      return std::bit_cast<T>(seen);
    }
  }
}

// Integer addition that wraps around, as the hardware's does.
template <typename T>
T wrapping_add(T a, T b) {
  if constexpr (std::is_integral_v<T>) {
    using Unsigned = std::make_unsigned_t<T>;
    return static_cast<T>(static_cast<Unsigned>(a) + static_cast<Unsigned>(b));
  } else {
    return a + b;
  }
}

}  // namespace dlmcache::emulation

#define DLMCACHE_EMULATION_ATOMIC(name, T, expression)                                            \
  inline T name(T* address, T value) {                                                            \
    return dlmcache::emulation::atomic_update(address, [=](T old) -> T { return (expression); }); \
  }
#define DLMCACHE_EMULATION_ATOMIC_CAS(T)                                                                      \
  inline T atomicCAS(T* address, T expected, T value) {                                                       \
    return dlmcache::emulation::atomic_update(address, [=](T old) { return old == expected ? value : old; }); \
  }

DLMCACHE_EMULATION_ATOMIC(atomicAdd, int, dlmcache::emulation::wrapping_add(old, value))
DLMCACHE_EMULATION_ATOMIC(atomicAdd, unsigned, old + value)
DLMCACHE_EMULATION_ATOMIC(atomicAdd, unsigned long long, old + value)
DLMCACHE_EMULATION_ATOMIC(atomicAdd, float, old + value)
DLMCACHE_EMULATION_ATOMIC(atomicAdd, double, old + value)
DLMCACHE_EMULATION_ATOMIC(atomicSub, int, static_cast<int>(static_cast<unsigned>(old) - static_cast<unsigned>(value)))
DLMCACHE_EMULATION_ATOMIC(atomicSub, unsigned, old - value)
DLMCACHE_EMULATION_ATOMIC(atomicExch, int, (static_cast<void>(old), value))
DLMCACHE_EMULATION_ATOMIC(atomicExch, unsigned, (static_cast<void>(old), value))
DLMCACHE_EMULATION_ATOMIC(atomicExch, unsigned long long, (static_cast<void>(old), value))
DLMCACHE_EMULATION_ATOMIC(atomicExch, float, (static_cast<void>(old), value))
DLMCACHE_EMULATION_ATOMIC(atomicMax, int, old > value ? old : value)
DLMCACHE_EMULATION_ATOMIC(atomicMax, unsigned, old > value ? old : value)
DLMCACHE_EMULATION_ATOMIC(atomicMax, long long, old > value ? old : value)
DLMCACHE_EMULATION_ATOMIC(atomicMax, unsigned long long, old > value ? old : value)
DLMCACHE_EMULATION_ATOMIC(atomicMin, int, old < value ? old : value)
DLMCACHE_EMULATION_ATOMIC(atomicMin, unsigned, old < value ? old : value)
DLMCACHE_EMULATION_ATOMIC(atomicMin, long long, old < value ? old : value)
DLMCACHE_EMULATION_ATOMIC(atomicMin, unsigned long long, old < value ? old : value)
DLMCACHE_EMULATION_ATOMIC(atomicAnd, int, old& value)
DLMCACHE_EMULATION_ATOMIC(atomicAnd, unsigned, old& value)
DLMCACHE_EMULATION_ATOMIC(atomicAnd, unsigned long long, old& value)
DLMCACHE_EMULATION_ATOMIC(atomicOr, int, old | value)
DLMCACHE_EMULATION_ATOMIC(atomicOr, unsigned, old | value)
DLMCACHE_EMULATION_ATOMIC(atomicOr, unsigned long long, old | value)
DLMCACHE_EMULATION_ATOMIC(atomicXor, int, old ^ value)
DLMCACHE_EMULATION_ATOMIC(atomicXor, unsigned, old ^ value)
DLMCACHE_EMULATION_ATOMIC(atomicXor, unsigned long long, old ^ value)
DLMCACHE_EMULATION_ATOMIC_CAS(int)
DLMCACHE_EMULATION_ATOMIC_CAS(unsigned)
DLMCACHE_EMULATION_ATOMIC_CAS(unsigned long long)

#undef DLMCACHE_EMULATION_ATOMIC
#undef DLMCACHE_EMULATION_ATOMIC_CAS
