// Named ranges for Nsight and other NVTX tools. Off unless DLMCACHE_NVTX=1; off, a range costs a branch.
#pragma once

namespace dlmcache::ops {

// Whether this binary was built with nvtx3.
bool nvtx_built();

// Decided once, when the library is loaded: ranges are pushed and popped in pairs, so it must not change in between.
extern const bool nvtx_enabled;

// Without effect where nvtx3 was not built in.
void nvtx_push(const char* name);
void nvtx_pop();

class NvtxRange {
 public:
  explicit NvtxRange(const char* name) {
    if (nvtx_enabled) nvtx_push(name);
  }
  ~NvtxRange() {
    if (nvtx_enabled) nvtx_pop();
  }
  NvtxRange(const NvtxRange&) = delete;
  NvtxRange& operator=(const NvtxRange&) = delete;
};

}  // namespace dlmcache::ops
