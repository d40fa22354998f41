#pragma once

#include <functional>
#include <mutex>
#include <string>
#include <string_view>
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

// While one lives, what DPDK says on this thread at error or warning level is kept for the caller's own message and
// logged at debug level only: drivers complain of much that does not matter when a device opens all the same.
class CaptureDpdkLog {
 public:
  CaptureDpdkLog();
  ~CaptureDpdkLog();
  CaptureDpdkLog(const CaptureDpdkLog&) = delete;
  CaptureDpdkLog& operator=(const CaptureDpdkLog&) = delete;
  // The lines so far, the last few of them, joined by "; ".
  std::string text() const;

 private:
  std::vector<std::string> lines_;
  std::vector<std::string>* const outer_;
};

// Sees each line that DPDK says at error level, on the thread that says it, with stdio's lock held: must return at once
// and log nothing. For what a library tells in no other way. Once per process; before or after InitEal.
void WatchDpdkErrors(std::function<void(std::string_view line)> watch);

// To be held while a device is plugged in or out (rte_eal_hotplug_add, rte_dev_probe and their opposites): EAL guards
// neither its list of devices nor that of their arguments.
std::mutex& EalHotplugMutex();

// Whether DPDK's memory is on hugepages; ordinary pages otherwise (a warning has been logged).
bool EalHasHugepages();

}  // namespace everport
