#pragma once

#include <atomic>
#include <cstdint>

namespace everport {

// What a port's lane has moved. Written by its poller alone but for `wired`, read by anyone; never goes back.
struct alignas(64) LaneCounters {
  struct Queue {
    std::atomic<uint64_t> rx_packets{0}, tx_packets{0};  // rx: towards the guest
  };
  // What other ports' lanes have put into this guest's rings over a wire; this port's own lane never sees it. Written
  // by the pollers of those, hence atomically; on cache lines of its own.
  struct alignas(64) Wired {
    std::atomic<uint64_t> packets{0}, bytes{0};
    std::atomic<uint64_t> queue_packets[16];

    void Add(uint16_t queue, uint64_t n, uint64_t octets) {
      packets.fetch_add(n, std::memory_order_relaxed);
      bytes.fetch_add(octets, std::memory_order_relaxed);
      queue_packets[queue].fetch_add(n, std::memory_order_relaxed);
    }
  };
  std::atomic<uint64_t> rx_packets{0}, tx_packets{0}, rx_bytes{0}, tx_bytes{0};
  std::atomic<uint64_t> drops_guest_full{0}, drops_uplink_full{0}, drops_malformed{0}, drops_no_path{0};
  Queue queues[16];
  Wired wired;

  static void Add(std::atomic<uint64_t>& counter, uint64_t n) {
    counter.store(counter.load(std::memory_order_relaxed) + n, std::memory_order_relaxed);
  }
};

}  // namespace everport
