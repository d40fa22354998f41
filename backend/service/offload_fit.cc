#include "backend/service/offload_fit.h"

#include "migration/feature_contract.h"

namespace everport {

absl::Status Serves(const OffloadDevice& device, const OffloadGuest& guest) {
  if (guest.features == 0) return absl::OkStatus();
  if (guest.pages_may_miss) {
    return absl::FailedPreconditionError(
        "the guest arrives by post-copy, and this device cannot wait for pages of its memory; it is used when all are "
        "here");
  }
  const bool migrates = guest.features >> kVhostLogAll & 1;
  if (migrates && !device.LogsDirtyPages()) {
    return absl::FailedPreconditionError(
        "the guest is being migrated, and this device does not tell what it writes; it is used again if the migration "
        "is cancelled");
  }
  return device.Covers(guest.features, guest.queue_pairs, 0);
}

}  // namespace everport
