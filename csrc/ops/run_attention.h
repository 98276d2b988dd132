// Attention on filled parameters, for the operators that contain it.
#pragma once

#include <torch/csrc/stable/tensor.h>

#include "dlmcache/attention.h"

namespace dlmcache::ops {

// Checks cu_rows and kv_lens, which `op` was given, finds how to spread the work, and runs it; scratch comes from the
// allocator of `like`.
void run_attention_cpu(const char* op, AttentionParams& p, const torch::stable::Tensor& like);

#ifdef DLMCACHE_WITH_CUDA
void run_attention_cuda(const char* op, AttentionParams& p, const torch::stable::Tensor& like);
#endif

}  // namespace dlmcache::ops
