#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "absl/status/status.h"
#include "backend/datapath/guest_rings.h"
#include "failover/health_monitor.h"

namespace everport {

// A device that works on the guest's rings by itself (path mode "offload"). Calls may block on the device (VDUSE: up to
// its msg_timeout), so they come from the port's device thread, one at a time; trouble() and event_fd() from any.
class OffloadDevice {
 public:
  virtual ~OffloadDevice() = default;  // stops; may block

  // Whether it can serve a guest that negotiated these features on so many queue pairs of rings of that size.
  // FailedPrecondition lists what is missing, by name.
  virtual absl::Status Covers(uint64_t features, uint16_t queue_pairs, uint16_t ring_size) const = 0;

  // The feature bits of a contract that it lacks for a guest that negotiates all of them on so many queue pairs; those
  // that QEMU answers for do not count.
  virtual uint64_t Lacks(uint64_t /*contract_features*/, uint16_t /*queue_pairs*/) const { return 0; }

  // Whether it marks by itself what it writes in the front-end's dirty log (VHOST_F_LOG_ALL). One that does not lets go
  // of the guest before the front-end is told that logging has begun; one of kind vdpa soon after, as its session has to
  // be taken up anew: its driver is told to log until then.
  virtual bool LogsDirtyPages() const { return false; }

  // Sends a frame while it serves nobody, so that the network finds the guest behind it before the guest is.
  // Unimplemented where there is no way to do so: then the guest's own next frame tells.
  virtual absl::Status Announce(std::span<const uint8_t> /*frame*/) {
    return absl::UnimplementedError("this kind of device sends only what a guest sends");
  }

  // Serves these rings from their bases. After an error it is as if it had not been called.
  virtual absl::Status Start(const GuestRings& rings) = 0;
  // The guest's eventfds have changed, nothing else.
  virtual absl::Status SetNotifiers(const GuestRings& rings) = 0;
  // Lets go of the rings; when it returns the device does not touch them any more, or it has gone. Fills in the
  // positions to go on from (avail_base, used_base of each ring). The error says what was unclean; the positions count.
  virtual absl::Status Stop(GuestRings& rings) = 0;
  // The data path has seen it stall, or its uplink is being given up: the next Stop need not wait for it long. Any
  // thread.
  virtual void Suspect() {}

  virtual Trouble trouble() const = 0;
  // Readable when trouble() may have changed; -1: poll it. The caller drains it (eventfd).
  virtual int event_fd() const = 0;
};

}  // namespace everport
