#pragma once

#include <string>
#include <vector>

#include "absl/status/status.h"

namespace everport {

// Whether `node` is one of the kernel's vhost-vdpa devices, by what sysfs calls it: nothing is opened, for opening does
// something to many a device (/dev/watchdog). root: of the host's files, "" but in tests. NotFound: there is no such
// file. The error names the cause and the mend. Any thread.
absl::Status CheckVhostVdpaNode(const std::string& root, const std::string& node);

// The vhost-vdpa-N that there are in a folder, with their paths, sorted.
std::vector<std::string> VhostVdpaNodes(const std::string& root, const std::string& folder = "/dev");

}  // namespace everport
