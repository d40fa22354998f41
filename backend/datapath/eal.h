#pragma once

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "backend/config/config.h"

namespace everport {

struct EalOptions {
  DaemonConfig::Memory memory = DaemonConfig::Memory::kAuto;
  std::vector<std::string> poller_cpus;  // CPU lists ("2", "0-1"), one per poller: poller i runs on lcore i + 1
};

// Starts EAL in the calling thread, which becomes lcore 0 and may run on every CPU. Once per process; EAL stays until
// the process ends. Unavailable, saying what EAL lacks, when it does not start.
absl::Status InitEal(const EalOptions& options);

// Whether DPDK's memory is on hugepages; ordinary pages otherwise (a warning has been logged).
bool EalHasHugepages();

}  // namespace everport
