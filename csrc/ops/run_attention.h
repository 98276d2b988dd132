// Attention on filled parameters, for the operators that contain it.
#pragma once

#include <torch/csrc/stable/tensor.h>

#include "dlmcache/attention.h"

namespace dlmcache::ops {

// What can be read on a CPU only: that cu_rows and kv_lens, which `op` was given, go with the other sizes.
void check_attention_lists(const char* op, const AttentionParams& p);

// Finds how to spread the work and runs it, after check_attention_lists; scratch comes from the allocator of `like`.
void run_attention_cpu(AttentionParams& p, const torch::stable::Tensor& like);

#ifdef DLMCACHE_WITH_CUDA
void run_attention_cuda(const char* op, AttentionParams& p, const torch::stable::Tensor& like);
#endif

}  // namespace dlmcache::ops
