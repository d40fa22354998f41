#pragma once

#include <cstdint>

#include "absl/status/status.h"
#include "backend/datapath/offload_device.h"

namespace everport {

struct OffloadGuest {
  uint64_t features = 0;  // negotiated; 0: none runs
  uint16_t queue_pairs = 1;
  bool pages_may_miss = false;  // it arrives by post-copy
};

// Whether the device may serve that guest; FailedPrecondition says why not, and until when if it may later.
absl::Status Serves(const OffloadDevice& device, const OffloadGuest& guest);

}  // namespace everport
