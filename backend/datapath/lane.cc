#include "backend/datapath/lane.h"

#include <rte_mbuf.h>

#include <algorithm>

namespace everport {
namespace {

constexpr uint16_t kBurst = 32;

// Hands frames to an endpoint and books them: those it took in packets and bytes, the others in drops.
struct Booking {
  std::atomic<uint64_t>& packets;
  std::atomic<uint64_t>& bytes;
  std::atomic<uint64_t>& queue_packets;
  std::atomic<uint64_t>& drops;
};

void Send(Endpoint& to, uint16_t queue, rte_mbuf** frames, uint16_t n, const Booking& book) {
  uint32_t lengths[kBurst];
  for (uint16_t i = 0; i < n; ++i) lengths[i] = frames[i]->pkt_len;  // the mbufs are gone afterwards
  const uint16_t sent = to.Transmit(queue, frames, n);
  uint64_t bytes = 0;
  for (uint16_t i = 0; i < sent; ++i) bytes += lengths[i];
  LaneCounters::Add(book.packets, sent);
  LaneCounters::Add(book.bytes, bytes);
  LaneCounters::Add(book.queue_packets, sent);
  if (sent < n) LaneCounters::Add(book.drops, n - sent);
}

}  // namespace

Lane::Lane(std::string port, std::shared_ptr<GuestEndpoint> guest, std::shared_ptr<Endpoint> uplink, rte_mempool* pool,
           rte_mempool* indirect_pool, std::shared_ptr<LaneCounters> counters)
    : port_(std::move(port)),
      guest_(std::move(guest)),
      uplink_(std::move(uplink)),
      counters_(std::move(counters)),
      offload_(pool, indirect_pool) {}

unsigned Lane::Poll() {
  unsigned moved = 0;
  const uint16_t guest_queues = guest_->receive_queues();
  const uint16_t uplink_queues = uplink_->transmit_queues();
  for (uint16_t q = 0; q < guest_queues; ++q) moved += FromGuest(q, uplink_queues);
  const uint16_t sources = uplink_->receive_queues();
  const uint16_t sinks = sources > 0 ? guest_->transmit_queues() : 0;
  for (uint16_t q = 0; q < sources; ++q) moved += ToGuest(q, sinks);
  return moved;
}

unsigned Lane::FromGuest(uint16_t guest_queue, uint16_t uplink_queues) {
  rte_mbuf* frames[kBurst];
  const uint16_t n = guest_->Receive(guest_queue, frames, kBurst);
  if (n == 0) return 0;
  const Booking book{counters_->tx_packets, counters_->tx_bytes, counters_->queues[guest_queue].tx_packets,
                     counters_->drops_uplink_full};
  if (uplink_queues == 0) {  // a wire whose peer has no rings now
    rte_pktmbuf_free_bulk(frames, n);
    LaneCounters::Add(book.drops, n);
    return n;
  }
  const uint16_t queue = guest_queue % uplink_queues;
  offload_.Process(uplink_->transmit_caps(), frames, n,
                   [&](rte_mbuf** ready, uint16_t count) { Send(*uplink_, queue, ready, count, book); });
  BookOffloadDrops();
  return n;
}

// The stage counts for its own life, the port for its life.
void Lane::BookOffloadDrops() {
  const uint64_t malformed = offload_.malformed(), no_mbufs = offload_.no_mbufs();
  if (malformed != malformed_booked_) LaneCounters::Add(counters_->drops_malformed, malformed - malformed_booked_);
  if (no_mbufs != no_mbufs_booked_) LaneCounters::Add(counters_->drops_uplink_full, no_mbufs - no_mbufs_booked_);
  malformed_booked_ = malformed;
  no_mbufs_booked_ = no_mbufs;
}

unsigned Lane::ToGuest(uint16_t uplink_queue, uint16_t guest_queues) {
  rte_mbuf* frames[kBurst];
  const uint16_t n = uplink_->Receive(uplink_queue, frames, kBurst);
  if (n == 0) return 0;
  if (guest_queues == 0) {
    rte_pktmbuf_free_bulk(frames, n);
    LaneCounters::Add(counters_->drops_guest_full, n);
    return n;
  }
  const uint16_t queue = uplink_queue % guest_queues;
  Send(*guest_, queue, frames, n,
       {counters_->rx_packets, counters_->rx_bytes, counters_->queues[queue].rx_packets, counters_->drops_guest_full});
  return n;
}

}  // namespace everport
