#pragma once

#include <string>

#include "absl/status/status.h"

namespace everport {

// What opening /dev/vhost-vdpa-N ended with (an errno), with cause and mend: what there is instead, who has it, what to
// load. Reads /dev and /proc; any thread.
absl::Status ExplainVhostVdpaOpenError(const std::string& path, int error);

}  // namespace everport
