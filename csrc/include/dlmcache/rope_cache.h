// RoPE of freshly projected rows and their way into the cache: contract between the tensor boundary, the CPU loops and
// the kernels.
#pragma once

#include <cstdint>

#include "dlmcache/dtype.h"

namespace dlmcache {

struct RopeScatterKvParams {
  DType dtype;           // of qkv, k_cache, v_cache and q
  int64_t num_rows;      // R
  int64_t num_heads;     // H, may be 0
  int64_t num_kv_heads;  // Hkv
  int64_t head_dim;      // D, even
  int64_t capacity;      // positions per slot: the position of row i is i % capacity
  const void* qkv;       // [num_rows, (H + 2 Hkv) * D]: query, key, value heads; rows qkv_stride elements apart
  int64_t qkv_stride;
  const float* cos_sin;      // [capacity, D]: D / 2 cosines, then D / 2 sines
  const int64_t* row_index;  // [num_rows], -1 marks an unused entry
  void* k_cache;             // [slots * capacity, Hkv, D], contiguous
  void* v_cache;             // like k_cache
  void* q;                   // [num_rows, H, D], contiguous; zeros where unused
};

namespace cpu {
void rope_scatter_kv_rows(const RopeScatterKvParams& p, int64_t begin, int64_t end);
}  // namespace cpu

namespace cuda {
// nullptr, or what the launch failed with.
const char* launch_rope_scatter_kv(const RopeScatterKvParams& p, void* stream);
}  // namespace cuda

}  // namespace dlmcache
