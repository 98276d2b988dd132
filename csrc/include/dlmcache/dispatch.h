// From run-time values to template arguments. Each helper calls `body` with a tag whose type carries the choice and
// returns what body returns; an impossible value is the caller's error, so the tensor boundary checks it before.
#pragma once

#include <cstdlib>

#include "dlmcache/dtype.h"

namespace dlmcache {

template <typename T>
struct TypeTag {
  using type = T;
};

// body(TypeTag<scalar_t>{})
template <typename Body>
decltype(auto) dispatch_float(DType dtype, Body&& body) {
  switch (dtype) {
    case DType::kFloat32:
      return body(TypeTag<float>{});
    case DType::kFloat16:
      return body(TypeTag<Half>{});
    case DType::kBFloat16:
      return body(TypeTag<BFloat16>{});
  }
  std::abort();
}

}  // namespace dlmcache
