// What an NVTX tool is to nvtx3, made as small as it can be: writes a line for every range that opens ("+name") and
// closes ("-") to the file that NVTX_RECORD names.
#include <nvtx3/nvToolsExt.h>

#include <cstdio>
#include <cstdlib>

namespace {

FILE* record() {
  static FILE* file = std::fopen(std::getenv("NVTX_RECORD"), "w");
  return file;
}

int NVTX_API push(const char* name) {
  std::fprintf(record(), "+%s\n", name);
  return 0;
}

int NVTX_API pop() {
  std::fprintf(record(), "-\n");
  return 0;
}

}  // namespace

extern "C" int InitializeInjectionNvtx2(NvtxGetExportTableFunc_t get_table) {
  const auto* table = static_cast<const NvtxExportTableCallbacks*>(get_table(NVTX_ETID_CALLBACKS));
  NvtxFunctionTable functions = nullptr;
  unsigned int size = 0;
  if (table == nullptr || !table->GetModuleFunctionTable(NVTX_CB_MODULE_CORE, &functions, &size)) return 0;
  *functions[NVTX_CBID_CORE_RangePushA] = reinterpret_cast<NvtxFunctionPointer>(push);
  *functions[NVTX_CBID_CORE_RangePop] = reinterpret_cast<NvtxFunctionPointer>(pop);
  return 1;
}
