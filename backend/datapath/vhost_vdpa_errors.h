#pragma once

#include <string>

#include "absl/status/status.h"

namespace everport {

// What opening /dev/vhost-vdpa-N ended with, with cause and mend: what there is instead, who has it, what to load.
// Reads /dev and /proc; any thread.
absl::Status ExplainVhostVdpaError(const std::string& path, const absl::Status& error);

}  // namespace everport
