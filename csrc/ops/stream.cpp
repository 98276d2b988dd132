#ifdef DLMCACHE_WITH_CUDA
#include <dlfcn.h>
#include <torch/headeronly/util/Exception.h>

#include "ops/run.h"

namespace dlmcache::ops {

void* current_stream(int32_t device_index) {
  // Looked up, not linked: the same binary must load under a CPU-only torch, which has no libtorch_cuda (and where no
  // CUDA tensor can exist to bring us here). RTLD_NOLOAD: take the library that torch itself has loaded.
  using GetStream = int32_t (*)(int32_t, void**);
  static const GetStream get_stream = [] {
    void* library = dlopen("libtorch_cuda.so", RTLD_NOLOAD | RTLD_LAZY);
    return library ? reinterpret_cast<GetStream>(dlsym(library, "aoti_torch_get_current_cuda_stream")) : nullptr;
  }();
  STD_TORCH_CHECK(get_stream != nullptr, "dlmcache_cuda: libtorch_cuda.so is not loaded, so there is no CUDA stream");
  void* stream = nullptr;
  STD_TORCH_CHECK(get_stream(device_index, &stream) == 0, "dlmcache_cuda: no current stream on CUDA device ",
                  device_index);
  return stream;
}

}  // namespace dlmcache::ops
#endif
