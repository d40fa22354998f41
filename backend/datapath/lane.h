#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>

#include "backend/datapath/endpoint.h"
#include "backend/datapath/guest_endpoint.h"
#include "backend/datapath/offload.h"

namespace everport {

// What a lane has moved. Written by its poller alone, read by anyone; never goes back.
struct alignas(64) LaneCounters {
  struct Queue {
    std::atomic<uint64_t> rx_packets{0}, tx_packets{0};  // rx: towards the guest
  };
  std::atomic<uint64_t> rx_packets{0}, tx_packets{0}, rx_bytes{0}, tx_bytes{0};
  std::atomic<uint64_t> drops_guest_full{0}, drops_uplink_full{0}, drops_malformed{0};
  Queue queues[16];

  static void Add(std::atomic<uint64_t>& counter, uint64_t n) {
    counter.store(counter.load(std::memory_order_relaxed) + n, std::memory_order_relaxed);
  }
};

// A port's relay: bursts from the guest's rings to the uplink and back, through the offload stage. One poller owns it
// from Poller::Add to the acknowledgement of Poller::Remove; the endpoints outlive it.
class Lane {
 public:
  // pools: of the offload stage. counters: of the port.
  Lane(std::string port, std::shared_ptr<GuestEndpoint> guest, std::shared_ptr<Endpoint> uplink, rte_mempool* pool,
       rte_mempool* indirect_pool, std::shared_ptr<LaneCounters> counters);

  // Moves at most one burst per queue each way. Returns the number of frames received.
  unsigned Poll();

  Endpoint& guest() { return *guest_; }
  Endpoint& uplink() { return *uplink_; }
  const std::string& port() const { return port_; }

 private:
  unsigned FromGuest(uint16_t guest_queue, uint16_t uplink_queues);
  unsigned ToGuest(uint16_t uplink_queue, uint16_t guest_queues);
  void BookOffloadDrops();

  const std::string port_;
  const std::shared_ptr<GuestEndpoint> guest_;
  const std::shared_ptr<Endpoint> uplink_;
  const std::shared_ptr<LaneCounters> counters_;
  OffloadStage offload_;
  uint64_t malformed_booked_ = 0, no_mbufs_booked_ = 0;
};

}  // namespace everport
