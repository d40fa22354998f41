#include "backend/datapath/lane.h"

#include <rte_arp.h>
#include <rte_ether.h>
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
  const uint16_t sent = std::min(n, to.Transmit(queue, frames, n));  // more would index lengths beyond n
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
      pool_(pool),
      offload_(pool, indirect_pool) {}

void Lane::Announce(const uint8_t mac[6]) {
  uint64_t word = uint64_t{1} << 48;
  for (int i = 0; i < 6; ++i) word |= uint64_t{mac[i]} << (8 * i);
  announce_.store(word, std::memory_order_release);
}

void Lane::SendAnnouncement() {
  const uint64_t word = announce_.exchange(0, std::memory_order_acquire);
  rte_ether_addr mac;
  for (int i = 0; i < 6; ++i) mac.addr_bytes[i] = static_cast<uint8_t>(word >> (8 * i));
  rte_mbuf* frame = rte_net_make_rarp_packet(pool_, &mac);
  if (!frame || uplink_->Transmit(0, &frame, 1) == 0) LaneCounters::Add(counters_->drops_uplink_full, 1);
}

unsigned Lane::Poll() {
  unsigned moved = 0;
  const uint16_t guest_queues = guest_->receive_queues();
  if (!uplink_) {
    for (uint16_t q = 0; q < guest_queues; ++q) moved += Discard(q);
    return moved;
  }
  if (announce_.load(std::memory_order_relaxed) != 0) SendAnnouncement();
  const uint16_t uplink_queues = uplink_->transmit_queues();
  for (uint16_t q = 0; q < guest_queues; ++q) moved += FromGuest(q, uplink_queues);
  const uint16_t sources = uplink_->receive_queues();
  const uint16_t sinks = sources > 0 ? guest_->transmit_queues() : 0;
  for (uint16_t q = 0; q < sources; ++q) moved += ToGuest(q, sinks);
  return moved;
}

unsigned Lane::Discard(uint16_t guest_queue) {
  rte_mbuf* frames[kBurst];
  const uint16_t n = guest_->Receive(guest_queue, frames, kBurst);
  if (n == 0) return 0;
  rte_pktmbuf_free_bulk(frames, n);
  LaneCounters::Add(counters_->drops_no_path, n);
  return n;
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

void Lane::BookOffloadDrops() {
  if (const uint64_t n = offload_.TakeMalformed()) LaneCounters::Add(counters_->drops_malformed, n);
  if (const uint64_t n = offload_.TakeNoMbufs()) LaneCounters::Add(counters_->drops_uplink_full, n);
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
