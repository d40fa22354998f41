#pragma once

// A front-end owns the file behind its guest's memory and may shorten it while we have it mapped; touching what is gone
// is a SIGBUS, which would end the process and with it every port. The guard puts zero pages over that mapping instead:
// that guest's rings stop, which is its front-end's doing, and the others notice nothing.

#include <cstdint>
#include <vector>

#include "absl/status/status.h"

namespace everport {

// Installs the SIGBUS handler for the whole process. Faults outside of shared file mappings stay fatal.
absl::Status InstallMemoryGuard();

// The addresses at which pages were replaced since the last call, for telling whose they were; at most 64, more are
// counted as the last. Any one thread.
std::vector<uintptr_t> TakeMemoryGuardHits();

}  // namespace everport
