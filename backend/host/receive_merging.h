#pragma once

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace everport {

// What the kernel does with frames of a network device before a packet socket sees them (ethtool's features), in the
// process's network namespace. Any thread.

// Switches off what merges frames that have arrived into longer ones (ethtool's gro, lro, rx-gro-hw): a packet socket
// gets them with more bytes than the MTU. Returns the features that were on, by ethtool's short names. A device that
// has none of them is fine. The error of one that cannot be switched off names the device, the cause and the mend.
absl::StatusOr<std::vector<std::string>> SwitchMergingOff(const std::string& interface);

// Whether the kernel leaves the checksums of what it sends through this device to it (ethtool's tx-checksumming).
// Behind a veth they arrive unfinished.
absl::StatusOr<bool> LeavesChecksumsUnfinished(const std::string& interface);

}  // namespace everport
