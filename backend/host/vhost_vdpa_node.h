#pragma once

#include <string>

#include "absl/status/status.h"

namespace everport {

// Whether `node` is a device to open, as /dev/vhost-vdpa-N. root: of the host's files, "" but in tests. The error names
// the cause and the mend. Any thread.
absl::Status CheckVhostVdpaNode(const std::string& root, const std::string& node);

}  // namespace everport
