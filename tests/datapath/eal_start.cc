#include "tests/datapath/eal_start.h"

#include <rte_eal.h>
#include <rte_errno.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

namespace everport {

void StartEalForTest() {
  // Not --in-memory: EAL refuses it together with --no-huge.
  std::vector<std::string> args = {"test",           "--no-huge",           "-m",      "128", "--no-shconf", "--no-pci",
                                   "--no-telemetry", "--log-level=warning", "--lcores"};
  args.push_back("0@(0-" + std::to_string(sysconf(_SC_NPROCESSORS_CONF) - 1) + ")");
  std::vector<char*> argv;
  for (std::string& arg : args) argv.push_back(arg.data());
  if (rte_eal_init(static_cast<int>(argv.size()), argv.data()) < 0) {
    std::fprintf(stderr, "EAL did not start: %s\n", rte_strerror(rte_errno));
    std::exit(1);
  }
}

}  // namespace everport
