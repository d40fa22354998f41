#include "backend/datapath/bpf_log.h"

#include <dlfcn.h>

#include <cstdarg>
#include <cstdio>
#include <string_view>

#include "backend/base/log.h"

namespace everport {
namespace {

// bpf/libbpf.h, libbpf_print_fn_t; libxdp's is the same but for its enum's name.
using PrintFn = int (*)(int level, const char* format, va_list arguments);
using SetPrintFn = PrintFn (*)(PrintFn);

int Print(int, const char* format, va_list arguments) {
  char text[512];
  const int size = std::vsnprintf(text, sizeof text, format, arguments);
  std::string_view line(text);
  while (!line.empty() && line.back() == '\n') line.remove_suffix(1);
  if (!line.empty()) spdlog::debug("bpf: {}", line);
  return size;
}

// The libraries come with DPDK's af_xdp driver, a plugin that is loaded only where it is installed.
void Route(const char* library, const char* set_print) {
  void* const loaded = dlopen(library, RTLD_LAZY | RTLD_NOLOAD);
  if (!loaded) return;
  if (const auto set = reinterpret_cast<SetPrintFn>(dlsym(loaded, set_print))) set(Print);
  dlclose(loaded);  // the driver has it for as long as we live
}

}  // namespace

void RouteBpfLogs() {
  Route("libbpf.so.1", "libbpf_set_print");
  Route("libxdp.so.1", "libxdp_set_print");
}

}  // namespace everport
