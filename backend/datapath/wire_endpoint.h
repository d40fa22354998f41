#pragma once

#include <memory>
#include <vector>

#include "backend/datapath/endpoint.h"
#include "backend/datapath/guest_endpoint.h"

namespace everport {

// The uplink of a port that is wired to another port (kind "port"): what this guest sends goes into the peer guest's
// rings. Nothing is received here: the peer's own wire puts frames straight into this guest's rings, so each vring
// still has one poller that uses it.
class WireEndpoint : public Endpoint {
 public:
  explicit WireEndpoint(std::shared_ptr<GuestEndpoint> peer) : peer_(std::move(peer)) {}

  uint16_t receive_queues() const override { return 0; }
  uint16_t transmit_queues() const override { return peer_->transmit_queues(); }
  OffloadCaps transmit_caps() const override { return peer_->transmit_caps(); }
  uint16_t Receive(uint16_t, rte_mbuf**, uint16_t) override { return 0; }
  uint16_t Transmit(uint16_t queue, rte_mbuf** frames, uint16_t n) override {
    return peer_->Transmit(queue, frames, n);
  }
  bool backpressure() const override { return false; }
  void ArmWake() override {}
  void DisarmWake() override {}
  std::vector<WakeFd> WakeFds(bool&) override { return {}; }
  uint32_t wake_generation() const override { return 0; }

 private:
  const std::shared_ptr<GuestEndpoint> peer_;
};

}  // namespace everport
