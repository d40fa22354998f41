#include "backend/datapath/lane.h"

#include <rte_arp.h>
#include <rte_cycles.h>
#include <rte_ether.h>
#include <rte_mbuf.h>

#include <algorithm>
#include <cstring>
#include <utility>

namespace everport {
namespace {

constexpr uint16_t kBurst = 32;
constexpr uint16_t kGuestQueues = 16;
// Standbys are polled when nothing else is to do, and else once in so many rounds: for some a look is a system call.
constexpr unsigned kStandbyRounds = 64;
// What an uplink's receive queue may hold when the path is switched away from it.
constexpr unsigned kDrainFrames = 1024;

}  // namespace

Lane::Lane(std::string port, std::shared_ptr<GuestEndpoint> guest, const uint8_t mac[6], rte_mempool* indirect_pool,
           std::shared_ptr<LaneCounters> counters)
    : port_(std::move(port)),
      guest_(std::move(guest)),
      counters_(std::move(counters)),
      indirect_pool_(indirect_pool),
      held_(kGuestQueues) {
  std::memcpy(mac_, mac, sizeof mac_);
}

Lane::~Lane() {
  for (Held& held : held_) DropHeld(held, counters_->drops_no_path);
}

uint64_t Lane::SetPath(Path path, bool drain) {
  uint64_t lost = 0;
  if (path_.uplink && drain) DrainUplink();
  if (!drain && path.uplink != path_.uplink) lost = in_flight();
  path_ = std::move(path);
  offload_.emplace(path_.pool, indirect_pool_);
  guest_->set_pool(path_.pool);
  endpoints_.clear();
  endpoints_.push_back(guest_.get());
  if (path_.uplink) endpoints_.push_back(path_.uplink.get());
  for (const auto& standby : path_.standby) endpoints_.push_back(standby.get());
  ++path_serial_;
  MoveHeldToNewPath();
  return lost;
}

void Lane::DrainUplink() {
  const uint16_t sinks = guest_->transmit_queues();
  for (uint16_t q = 0; q < path_.uplink->receive_queues(); ++q) {
    unsigned drained = 0;
    while (drained < kDrainFrames) {
      const unsigned n = ToGuest(*path_.uplink, q, sinks, true);
      if (n == 0) break;
      drained += n;
    }
  }
}

// Frames were made ready for the uplink of before: those that asked it for something may need more for this one.
void Lane::MoveHeldToNewPath() {
  stalled_since_.store(0, std::memory_order_relaxed);
  const uint16_t uplink_queues = path_.uplink ? path_.uplink->transmit_queues() : 0;
  for (uint16_t q = 0; q < kGuestQueues; ++q) {
    Held before = std::exchange(held_[q], {});
    if (uplink_queues == 0) {
      DropHeld(before, counters_->drops_no_path);
      continue;
    }
    for (size_t at = 0; at < before.frames.size(); at += kBurst) {
      const auto n = static_cast<uint16_t>(std::min<size_t>(kBurst, before.frames.size() - at));
      offload_->Process(path_.uplink->transmit_caps(), &before.frames[at], n,
                        [&](rte_mbuf** ready, uint16_t count) { SendToUplink(q, q % uplink_queues, ready, count); });
    }
  }
  BookOffloadDrops();
}

bool Lane::Flush() {
  const uint16_t uplink_queues = path_.uplink ? path_.uplink->transmit_queues() : 0;
  for (uint16_t q = 0; q < kGuestQueues && uplink_queues > 0; ++q) SendHeld(q, q % uplink_queues);
  return std::all_of(held_.begin(), held_.end(), [](const Held& held) { return held.frames.empty(); });
}

void Lane::Announce(const uint8_t mac[6]) {
  uint64_t word = uint64_t{1} << 48;
  for (int i = 0; i < 6; ++i) word |= uint64_t{mac[i]} << (8 * i);
  announce_.store(word, std::memory_order_release);
}

void Lane::SendAnnouncement() {
  const uint64_t word = announce_.exchange(0, std::memory_order_acquire);
  rte_ether_addr mac;
  for (int i = 0; i < 6; ++i) mac.addr_bytes[i] = static_cast<uint8_t>(word >> (8 * i));
  rte_mbuf* frame = rte_net_make_rarp_packet(path_.pool, &mac);
  if (frame && path_.uplink->Transmit(0, &frame, 1) == 1) return;
  rte_pktmbuf_free(frame);
  LaneCounters::Add(counters_->drops_uplink_full, 1);
}

uint64_t Lane::stalled_ms() const {
  const uint64_t since = stalled_since_.load(std::memory_order_relaxed);
  const uint64_t refused = refused_at_.load(std::memory_order_relaxed);
  return since == 0 || refused < since ? 0 : (refused - since) / (rte_get_tsc_hz() / 1000);
}

uint32_t Lane::wake_generation() const {
  uint32_t sum = path_serial_;
  for (const Endpoint* endpoint : endpoints_) sum += endpoint->wake_generation();
  return sum;
}

unsigned Lane::Poll() {
  unsigned moved = 0;
  const uint16_t guest_queues = guest_->receive_queues();
  const uint16_t sinks = guest_->transmit_queues();
  if (path_.uplink) {
    if (announce_.load(std::memory_order_relaxed) != 0) SendAnnouncement();
    const uint16_t uplink_queues = path_.uplink->transmit_queues();
    for (uint16_t q = 0; q < guest_queues; ++q) moved += FromGuest(q, uplink_queues);
    for (uint16_t q = 0; q < path_.uplink->receive_queues(); ++q) moved += ToGuest(*path_.uplink, q, sinks, true);
  } else {
    for (uint16_t q = 0; q < guest_queues; ++q) moved += Discard(q);
  }
  if (!path_.standby.empty() && (moved == 0 || ++rounds_ >= kStandbyRounds)) moved += PollStandby(sinks);
  return moved;
}

unsigned Lane::PollStandby(uint16_t guest_queues) {
  rounds_ = 0;
  unsigned moved = 0;
  for (const auto& standby : path_.standby) {
    for (uint16_t q = 0; q < standby->receive_queues(); ++q) moved += ToGuest(*standby, q, guest_queues, false);
  }
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
  const uint16_t queue = uplink_queues == 0 ? 0 : guest_queue % uplink_queues;
  Held& held = held_[guest_queue];
  if (!held.frames.empty()) {
    if (uplink_queues > 0) SendHeld(guest_queue, queue);
    if (!held.frames.empty()) return 1;
  }
  rte_mbuf* frames[kBurst];
  const uint16_t n = guest_->Receive(guest_queue, frames, kBurst);
  if (n == 0) return 0;
  if (uplink_queues == 0) {  // a wire whose peer has no rings now
    rte_pktmbuf_free_bulk(frames, n);
    LaneCounters::Add(counters_->drops_uplink_full, n);
    return n;
  }
  offload_->Process(path_.uplink->transmit_caps(), frames, n,
                    [&](rte_mbuf** ready, uint16_t count) { SendToUplink(guest_queue, queue, ready, count); });
  BookOffloadDrops();
  return n;
}

// Takes all n frames: what the uplink does not take is held, behind what is held already.
void Lane::SendToUplink(uint16_t guest_queue, uint16_t uplink_queue, rte_mbuf** frames, uint16_t n) {
  Held& held = held_[guest_queue];
  uint16_t sent = 0;
  if (held.frames.empty()) sent = Offer(guest_queue, uplink_queue, frames, n);
  if (sent == n) return;
  held.frames.insert(held.frames.end(), frames + sent, frames + n);
  if (held.hopeless || !path_.uplink->backpressure()) DropHeld(held, counters_->drops_uplink_full);
}

void Lane::SendHeld(uint16_t guest_queue, uint16_t uplink_queue) {
  Held& held = held_[guest_queue];
  size_t sent = 0;
  while (sent < held.frames.size()) {
    const auto n = static_cast<uint16_t>(std::min<size_t>(kBurst, held.frames.size() - sent));
    const uint16_t taken = Offer(guest_queue, uplink_queue, &held.frames[sent], n);
    sent += taken;
    if (taken < n) break;
  }
  held.frames.erase(held.frames.begin(), held.frames.begin() + static_cast<ptrdiff_t>(sent));
  if (held.frames.empty() || rte_rdtsc() - held.since < rte_get_tsc_hz() / 1000 * kHoldMs) return;
  held.hopeless = true;
  DropHeld(held, counters_->drops_uplink_full);
}

// Books what the uplink takes, and notes whether it takes anything.
uint16_t Lane::Offer(uint16_t guest_queue, uint16_t uplink_queue, rte_mbuf** frames, uint16_t n) {
  uint32_t lengths[OffloadStage::kRound];
  static_assert(OffloadStage::kRound >= kBurst);
  for (uint16_t i = 0; i < n; ++i) lengths[i] = frames[i]->pkt_len;  // the mbufs are gone afterwards
  const uint16_t sent = std::min(n, path_.uplink->Transmit(uplink_queue, frames, n));
  uint64_t bytes = 0;
  for (uint16_t i = 0; i < sent; ++i) bytes += lengths[i];
  LaneCounters::Add(counters_->tx_packets, sent);
  LaneCounters::Add(counters_->tx_bytes, bytes);
  LaneCounters::Add(counters_->queues[guest_queue].tx_packets, sent);
  Held& held = held_[guest_queue];
  if (sent > 0) {
    held.since = 0;
    held.hopeless = false;
    if (stalled_since_.load(std::memory_order_relaxed) != 0) stalled_since_.store(0, std::memory_order_relaxed);
  }
  if (sent < n && path_.uplink->backpressure()) {
    const uint64_t now = rte_rdtsc();
    if (held.since == 0) held.since = now;
    refused_at_.store(now, std::memory_order_relaxed);
    if (sent == 0 && stalled_since_.load(std::memory_order_relaxed) == 0)
      stalled_since_.store(now, std::memory_order_relaxed);
  }
  return sent;
}

void Lane::DropHeld(Held& held, std::atomic<uint64_t>& counter) {
  if (held.frames.empty()) return;
  rte_pktmbuf_free_bulk(held.frames.data(), static_cast<unsigned>(held.frames.size()));
  LaneCounters::Add(counter, held.frames.size());
  held.frames.clear();
}

void Lane::BookOffloadDrops() {
  if (const uint64_t n = offload_->TakeMalformed()) LaneCounters::Add(counters_->drops_malformed, n);
  if (const uint64_t n = offload_->TakeNoMbufs()) LaneCounters::Add(counters_->drops_uplink_full, n);
}

// Of frames that came in through a standby those that are the guest's and nobody else's; the others are freed.
uint16_t Lane::KeepOwn(rte_mbuf** frames, uint16_t n) const {
  uint16_t kept = 0;
  for (uint16_t i = 0; i < n; ++i) {
    const bool own = frames[i]->data_len >= sizeof mac_ &&
                     std::memcmp(rte_pktmbuf_mtod(frames[i], const uint8_t*), mac_, sizeof mac_) == 0;
    if (own) {
      frames[kept++] = frames[i];
    } else {
      rte_pktmbuf_free(frames[i]);
    }
  }
  return kept;
}

// Returns the number of frames received, whatever became of them. all: not the guest's alone.
unsigned Lane::ToGuest(Endpoint& from, uint16_t uplink_queue, uint16_t guest_queues, bool all) {
  rte_mbuf* frames[kBurst];
  const uint16_t got = from.Receive(uplink_queue, frames, kBurst);
  if (got == 0) return 0;
  const uint16_t n = all ? got : KeepOwn(frames, got);
  if (n == 0) return got;
  uint16_t sent = 0;
  if (guest_queues > 0) {
    const uint16_t queue = uplink_queue % guest_queues;
    uint32_t lengths[kBurst];
    for (uint16_t i = 0; i < n; ++i) lengths[i] = frames[i]->pkt_len;
    sent = std::min(n, guest_->Transmit(queue, frames, n));
    uint64_t bytes = 0;
    for (uint16_t i = 0; i < sent; ++i) bytes += lengths[i];
    LaneCounters::Add(counters_->rx_packets, sent);
    LaneCounters::Add(counters_->rx_bytes, bytes);
    LaneCounters::Add(counters_->queues[queue].rx_packets, sent);
  }
  if (sent < n) {
    rte_pktmbuf_free_bulk(frames + sent, n - sent);
    LaneCounters::Add(counters_->drops_guest_full, n - sent);
  }
  return got;
}

}  // namespace everport
