// Inputs and comparisons of tests that run an operator in every storage type.
#pragma once

#include <cstdint>
#include <random>
#include <vector>

#include "dlmcache/dtype.h"
#include "tests/test_main.h"

namespace dlmcache::testing {

// body(scalar_t{}, dtype, epsilon), epsilon being the largest relative error of one rounding.
template <typename Body>
void for_each_dtype(Body body) {
  body(float{}, DType::kFloat32, 0x1p-24);
  body(Half{}, DType::kFloat16, 0x1p-11);
  body(BFloat16{}, DType::kBFloat16, 0x1p-8);
}

// Normally distributed, the same in every run. `offset` elements in front are not used: with one, data() of the rest
// is not aligned for vector loads.
template <typename scalar_t>
struct Values {
  explicit Values(int64_t count, float scale = 1.0f, unsigned seed = 0, int64_t offset = 0)
      : storage(count + offset), first(offset) {
    std::mt19937 generator(seed);
    std::normal_distribution<float> normal(0.0f, scale);
    for (scalar_t& value : storage) value = from_float<scalar_t>(normal(generator));
  }
  scalar_t* data() { return storage.data() + first; }
  int64_t size() const { return static_cast<int64_t>(storage.size()) - first; }
  float operator[](int64_t i) const { return to_float(storage[first + i]); }
  bool same_bits(const Values& other) const {
    return size() == other.size() &&
           (size() == 0 ||
            std::memcmp(storage.data() + first, other.storage.data() + other.first, size() * sizeof(scalar_t)) == 0);
  }

  std::vector<scalar_t> storage;
  int64_t first;
};

}  // namespace dlmcache::testing
