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
  std::atomic<uint64_t> drops_guest_full{0}, drops_uplink_full{0}, drops_malformed{0}, drops_no_path{0};
  Queue queues[16];

  static void Add(std::atomic<uint64_t>& counter, uint64_t n) {
    counter.store(counter.load(std::memory_order_relaxed) + n, std::memory_order_relaxed);
  }
};

// A port's relay: bursts from the guest's rings to the uplink and back, through the offload stage. One poller owns it
// from Poller::Add to the acknowledgement of Poller::Remove; the endpoints outlive it.
class Lane {
 public:
  // uplink: nullptr while the port has none that works: what the guest sends is dropped, so that it does not stall.
  // pools: of the offload stage. counters: of the port.
  Lane(std::string port, std::shared_ptr<GuestEndpoint> guest, std::shared_ptr<Endpoint> uplink, rte_mempool* pool,
       rte_mempool* indirect_pool, std::shared_ptr<LaneCounters> counters);

  // Moves at most one burst per queue each way. Returns the number of frames received.
  unsigned Poll();

  // Tells the network where the guest is now: a RARP for this MAC goes out with the next poll. Any thread.
  void Announce(const uint8_t mac[6]);

  Endpoint& guest() { return *guest_; }
  Endpoint* uplink() { return uplink_.get(); }
  const std::string& port() const { return port_; }

 private:
  unsigned Discard(uint16_t guest_queue);
  unsigned FromGuest(uint16_t guest_queue, uint16_t uplink_queues);
  unsigned ToGuest(uint16_t uplink_queue, uint16_t guest_queues);
  void BookOffloadDrops();
  void SendAnnouncement();

  const std::string port_;
  const std::shared_ptr<GuestEndpoint> guest_;
  const std::shared_ptr<Endpoint> uplink_;
  const std::shared_ptr<LaneCounters> counters_;
  rte_mempool* const pool_;
  OffloadStage offload_;
  std::atomic<uint64_t> announce_{0};  // bit 48 set: pending, with the MAC below
};

}  // namespace everport
