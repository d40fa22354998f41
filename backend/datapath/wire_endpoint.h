#pragma once

#include <rte_mbuf.h>

#include <algorithm>
#include <memory>
#include <vector>

#include "backend/datapath/endpoint.h"
#include "backend/datapath/guest_endpoint.h"
#include "backend/datapath/lane_counters.h"

namespace everport {

// The other end of a wire: that port's guest, and where what it is given is booked.
struct WirePeer {
  std::shared_ptr<GuestEndpoint> guest;
  std::shared_ptr<LaneCounters> counters;
};

// The uplink of a port that is wired to another port (kind "port"): what this guest sends goes into the peer guest's
// rings. Nothing is received here: the peer's own wire puts frames straight into this guest's rings, so each vring
// still has one poller that uses it.
class WireEndpoint : public Endpoint {
 public:
  explicit WireEndpoint(WirePeer peer) : peer_(std::move(peer.guest)), counters_(std::move(peer.counters)) {}

  uint16_t receive_queues() const override { return 0; }
  uint16_t transmit_queues() const override { return peer_->transmit_queues(); }
  OffloadCaps transmit_caps() const override { return peer_->transmit_caps(); }
  uint16_t Receive(uint16_t, rte_mbuf**, uint16_t) override { return 0; }
  uint16_t Transmit(uint16_t queue, rte_mbuf** frames, uint16_t n) override {
    constexpr uint16_t kMost = OffloadStage::kRound;  // a lane offers no more
    n = std::min(n, kMost);
    uint64_t lengths[kMost + 1] = {0};  // of the first i frames: the mbufs are gone afterwards
    for (uint16_t i = 0; i < n; ++i) lengths[i + 1] = lengths[i] + frames[i]->pkt_len;
    const uint16_t sent = std::min(n, peer_->Transmit(queue, frames, n));
    if (sent > 0) counters_->wired.Add(queue, sent, lengths[sent]);
    return sent;
  }
  bool backpressure() const override { return false; }
  void ArmWake() override {}
  void DisarmWake() override {}
  std::vector<WakeFd> WakeFds(bool&) override { return {}; }
  uint32_t wake_generation() const override { return 0; }

 private:
  const std::shared_ptr<GuestEndpoint> peer_;
  const std::shared_ptr<LaneCounters> counters_;  // the peer port's
};

}  // namespace everport
