#pragma once

#include <string>

#include "absl/status/statusor.h"

namespace everport::cli {

// What `exe --version` prints, at most 4 KiB, within 5 s. exe is a program that some process on this machine runs, and
// everportctl is mostly run by root: only a file that root owns and nobody else may write is started
// (PermissionDenied otherwise), by its descriptor, so that it cannot be exchanged in between.
absl::StatusOr<std::string> RunVersion(const std::string& exe);

}  // namespace everport::cli
