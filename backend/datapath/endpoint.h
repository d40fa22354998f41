#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "backend/base/unique_fd.h"
#include "backend/datapath/offload.h"
#include "failover/health_monitor.h"

struct rte_mbuf;

namespace everport {

// One side of a port's data path: the guest's rings, an ethdev, or another guest's rings. Virtual per burst, never per
// packet. Receive and Transmit of one queue are called by one poller thread at a time; the other calls likewise.
class Endpoint {
 public:
  virtual ~Endpoint() = default;

  // Queues that can be used now, counted from 0.
  virtual uint16_t receive_queues() const = 0;
  virtual uint16_t transmit_queues() const = 0;
  // What Transmit takes without help; the lane does the rest in software.
  virtual OffloadCaps transmit_caps() const = 0;

  // What the other side takes of frames that Receive gives, beyond plain ones. Control thread, while no poller has it.
  virtual void set_receive_caps(const OffloadCaps&) {}

  // Up to n frames that have arrived. The caller owns them afterwards.
  virtual uint16_t Receive(uint16_t queue, rte_mbuf** frames, uint16_t n) = 0;
  // Takes the first frames away from the caller and returns how many: the others are still the caller's, who may try
  // again later, in order.
  virtual uint16_t Transmit(uint16_t queue, rte_mbuf** frames, uint16_t n) = 0;

  // What the device's driver tells of it now; at most a register read. Any thread.
  virtual Trouble trouble() const { return Trouble::kNone; }
  // Of what Transmit took, how many descriptors the device has not finished yet, as far as its driver tells. On the
  // thread that transmits.
  virtual uint64_t in_flight() const { return 0; }
  // Frames that Transmit took but the device will never send: too long, or the kernel does not want them. Any thread.
  virtual uint64_t refused() const { return 0; }
  // Whether frames that it does not take now are kept for it, and a device that takes none for long counts as stalled.
  // Not so another guest: what its full ring has no room for is lost, as with any NIC, and is nobody's fault.
  virtual bool backpressure() const { return true; }

  // Before the poller sleeps: asks to be woken when frames arrive. The poller polls once more afterwards.
  virtual void ArmWake() = 0;
  // Traffic is flowing and the poller polls anyway: stop notifying. Called once after each ArmWake.
  virtual void DisarmWake() = 0;
  struct WakeFd {
    UniqueFd fd;        // a duplicate, the caller's own
    bool edge = false;  // edge-triggered: nobody reads it empty (kick eventfds)
  };
  // Descriptors that become readable when frames arrive. complete is cleared when some queue has none: then the
  // poller may sleep for max_sleep_us at most.
  virtual std::vector<WakeFd> WakeFds(bool& complete) = 0;
  // Changes whenever WakeFds would answer otherwise. Any thread.
  virtual uint32_t wake_generation() const = 0;
};

}  // namespace everport
