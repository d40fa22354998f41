// The guest's rings: what the pollers do with them.

#define VIRTIO_RING_NO_LEGACY  // its inline functions are C
#include <linux/virtio_ring.h>
#include <rte_cycles.h>
#include <rte_mbuf.h>
#include <rte_vhost.h>

#include <algorithm>
#include <cstdlib>

#include "backend/datapath/guest_endpoint.h"
#include "backend/datapath/journal_scan.h"
#include "backend/datapath/rx_scan.h"

namespace everport {
namespace {

constexpr uint16_t kBurst = 32;  // librte_vhost's own MAX_PKT_BURST
// Without progress for so long a chain at a ring's head counts as unreadable.
constexpr uint64_t kStuckMs = 1;
constexpr uint32_t kNetHeader = 12;  // virtio_net_hdr_mrg_rxbuf, virtio 1.2, 5.1.6

bool Has(uint64_t features, unsigned bit) {
  return features >> bit & 1;
}

// The guest's memory table, fetched when it is first needed.
class GuestMemoryMap {
 public:
  explicit GuestMemoryMap(int vid) : vid_(vid) {}
  ~GuestMemoryMap() { free(memory_); }
  GuestMemoryMap(const GuestMemoryMap&) = delete;
  GuestMemoryMap& operator=(const GuestMemoryMap&) = delete;

  // Where gpa … gpa + len lies here; nullptr if not in one piece.
  const void* At(uint64_t gpa, uint64_t len) const {
    if (!memory_ && rte_vhost_get_mem_table(vid_, &memory_) != 0) return nullptr;
    uint64_t mapped = len;
    const uint64_t address = rte_vhost_va_from_guest_pa(memory_, gpa, &mapped);
    return address != 0 && mapped == len ? reinterpret_cast<const void*>(address) : nullptr;
  }

 private:
  const int vid_;
  mutable rte_vhost_memory* memory_ = nullptr;
};

// Bytes that a scanned chain holds: of all its descriptors, or of its indirect table's. The guest may have changed
// them since, or may do so yet: then a burst may take more chains than were written down, to that guest's loss alone.
int64_t ChainRoom(const PackedDesc* ring, uint16_t size, uint16_t position, const IndexPageChain& chain,
                  const GuestMemoryMap& memory) {
  constexpr uint32_t kMaxTable = 256;  // descriptors; librte_vhost refuses longer ones
  int64_t room = 0;
  if (chain.head_flags & kPackedIndirect) {
    const uint32_t count = std::min<uint32_t>(chain.head_len / sizeof(PackedDesc), kMaxTable);
    const auto* table =
        static_cast<const PackedDesc*>(memory.At(ring[position & 0x7fff].addr, count * sizeof(PackedDesc)));
    for (uint32_t i = 0; table && i < count; ++i) room += table[i].len;
    return room;
  }
  if (chain.slots == 1) return chain.head_len;
  for (uint16_t i = 0; i < chain.slots; ++i, position = Advance(position, 1, size)) room += ring[position & 0x7fff].len;
  return room;
}

// How many of the frames the chains surely hold. Without MRG_RXBUF a frame takes one chain, with it as many as its
// length needs. room: bytes of a chain; asked once for each, in order.
template <typename Room>
uint16_t FramesThatFit(bool mergeable, unsigned chains, Room room, rte_mbuf** frames, uint16_t n) {
  if (!mergeable) return static_cast<uint16_t>(std::min<unsigned>(n, chains));
  unsigned taken = 0;
  for (uint16_t i = 0; i < n; ++i) {
    for (int64_t left = int64_t{frames[i]->pkt_len} + kNetHeader; left > 0; left -= room(taken++)) {
      if (taken == chains) return i;
    }
  }
  return n;
}

}  // namespace

uint16_t GuestEndpoint::Receive(uint16_t queue, rte_mbuf** frames, uint16_t n) {
  const uint16_t vring = 2 * queue + 1;
  const int vid = UsableVid(vring);
  if (vid < 0) return 0;
  n = std::min(n, kBurst);
  const Vring& v = vrings_[vring];
  if (v.place.packed && v.place.page) return ReceiveJournalled(vid, vring, frames, n);
  uint16_t avail_before = 0, avail_after = 0, used = 0;
  rte_vhost_get_vring_base(vid, vring, &avail_before, &used);
  const uint16_t got = rte_vhost_dequeue_burst(vid, vring, pool_, frames, n);
  // A suspicion must not outlive progress: positions come again, after a lap or in the next session.
  if (got > 0) vrings_[vring].stuck_since = 0;
  if (v.place.packed) {
    if (logging() && rte_vhost_get_vring_base(vid, vring, &avail_after, &used) == 0)
      MarkSlots(vid, v, avail_before, avail_after);
    return got;
  }
  if (got == n) return got;
  if (rte_vhost_get_vring_base(vid, vring, &avail_after, &used) != 0) return got;
  // Consumed without giving a frame: librte_vhost found them malformed.
  const uint16_t consumed = avail_after - avail_before;
  if (consumed > got) CountMalformed(consumed - got);
  // Straight to QEMU the ring may be unmapped by a new memory table while we look; the keeper sees to it that it is
  // not.
  if (consumed == 0 && index_page_) SkipUnreadableChain(vid, vring, avail_after, used);
  return got;
}

// A chain that librte_vhost cannot even read (it loops, or lies outside the guest's memory) stays at the head of a
// split ring for ever. The guest gets it back unsent, and the ring goes on. Nothing is done when the ring is merely
// empty.
void GuestEndpoint::SkipUnreadableChain(int vid, uint16_t vring, uint16_t avail_position, uint16_t used_position) {
  rte_vhost_vring ring{};
  if (rte_vhost_get_vhost_vring(vid, vring, &ring) != 0 || !ring.avail || !ring.used || ring.size == 0) return;
  if (__atomic_load_n(&ring.avail->idx, __ATOMIC_ACQUIRE) == avail_position) return;
  // It may have come since, and a lock held by the event thread or an empty mempool are not the chain's fault.
  Vring& v = vrings_[vring];
  if (v.stuck_since == 0 || v.stuck_at != avail_position) {
    v.stuck_at = avail_position;
    v.stuck_since = rte_rdtsc();
    return;
  }
  if (rte_rdtsc() - v.stuck_since < rte_get_tsc_hz() / 1000 * kStuckMs) return;
  v.stuck_since = 0;
  const uint16_t mask = ring.size - 1;
  const uint16_t head = ring.avail->ring[avail_position & mask];
  vring_used_elem& slot = ring.used->ring[used_position & mask];
  slot.id = head;
  slot.len = 0;
  rte_vhost_log_used_vring(vid, vring, offsetof(vring_used, ring) + sizeof(slot) * (used_position & mask),
                           sizeof(slot));
  __atomic_store_n(&ring.used->idx, static_cast<uint16_t>(used_position + 1), __ATOMIC_RELEASE);
  rte_vhost_log_used_vring(vid, vring, offsetof(vring_used, idx), sizeof ring.used->idx);
  rte_vhost_set_vring_base(vid, vring, avail_position + 1, used_position + 1);
  rte_vhost_vring_call(vid, vring);
  CountMalformed(1);
}

// Packed ring under a keeper: index_page.h, steps 1 to 4. The burst is no longer than what was written down.
uint16_t GuestEndpoint::ReceiveJournalled(int vid, uint16_t vring, rte_mbuf** frames, uint16_t n) {
  Vring& v = vrings_[vring];
  uint16_t position = 0, used = 0;
  if (rte_vhost_get_vring_base(vid, vring, &position, &used) != 0) return 0;
  const unsigned chains = ScanChains(v.place.packed, v.place.size, position, v.place.page->chains, n);
  if (chains == 0) {
    NoteIncompleteChain(v, position);
    return 0;
  }
  v.suspect_at = v.broken_at = -1;
  v.place.page->head.store(IndexPageHead(position, static_cast<uint16_t>(chains)), std::memory_order_release);
  const uint16_t got = rte_vhost_dequeue_burst(vid, vring, pool_, frames, static_cast<uint16_t>(chains));
  uint16_t after = position;
  rte_vhost_get_vring_base(vid, vring, &after, &used);
  if (logging()) MarkSlots(vid, v, position, after);
  v.place.page->head.store(IndexPageHead(after, 0), std::memory_order_release);
  if (got < chains) {
    unsigned consumed = 0;
    for (uint16_t at = position; at != after && consumed < chains; ++consumed)
      at = Advance(at, v.place.page->chains[consumed].slots, v.place.size);
    if (consumed > got) CountMalformed(consumed - got);
  }
  return got;
}

// The head is available and the chain does not end: the driver makes the head available last (virtio 1.2, 2.8.21), so
// this ring is broken until the guest resets it. Counted once.
void GuestEndpoint::NoteIncompleteChain(Vring& v, uint16_t position) {
  const uint16_t flags = __atomic_load_n(&v.place.packed[position & 0x7fff].flags, __ATOMIC_ACQUIRE);
  const bool wrap = position >> 15;
  const bool available = ((flags & kPackedAvail) != 0) == wrap && ((flags & kPackedUsed) != 0) != wrap;
  if (!available) {
    v.broken_at = -1;
  } else if (v.broken_at != position) {
    // Seen first: it may just have come. Seen again at the same place: broken.
    CountMalformed(v.suspect_at == position ? 1 : 0);
    if (v.suspect_at == position) v.broken_at = position;
    v.suspect_at = position;
  }
}

uint16_t GuestEndpoint::Transmit(uint16_t queue, rte_mbuf** frames, uint16_t n) {
  const uint16_t vring = 2 * queue;
  const int vid = UsableVid(vring);
  uint16_t sent = 0;
  if (vid >= 0 && !vrings_[vring].sending.test_and_set(std::memory_order_acquire)) {
    const Place& place = vrings_[vring].place;
    if (place.packed && place.page) {
      sent = TransmitJournalled(vid, vring, frames, n);
    } else if (place.page && logging()) {
      sent = TransmitLogged(vid, vring, frames, n);
    } else {
      sent = TransmitPlain(vid, vring, frames, n);
    }
    vrings_[vring].sending.clear(std::memory_order_release);
  }
  rte_pktmbuf_free_bulk(frames, sent);  // librte_vhost copied them
  return sent;
}

uint16_t GuestEndpoint::TransmitPlain(int vid, uint16_t vring, rte_mbuf** frames, uint16_t n) {
  const Vring& v = vrings_[vring];
  uint16_t sent = 0;
  while (sent < n) {
    const uint16_t want = std::min<uint16_t>(n - sent, kBurst);
    uint16_t before = 0, after = 0, used = 0;
    if (v.place.packed) rte_vhost_get_vring_base(vid, vring, &before, &used);
    const uint16_t done = rte_vhost_enqueue_burst(vid, vring, frames + sent, want);
    if (v.place.packed && logging() && rte_vhost_get_vring_base(vid, vring, &after, &used) == 0)
      MarkSlots(vid, v, before, after);
    sent += done;
    if (done < want) break;
  }
  return sent;
}

// A split ring while the front-end logs: index_page.h, ranges. librte_vhost marks what it writes after having written.
uint16_t GuestEndpoint::TransmitLogged(int vid, uint16_t vring, rte_mbuf** frames, uint16_t n) {
  Vring& v = vrings_[vring];
  uint16_t sent = 0;
  while (sent < n) {
    rte_vhost_vring ring{};
    uint16_t position = 0, used = 0;
    if (rte_vhost_get_vhost_vring(vid, vring, &ring) != 0 || !ring.desc || !ring.avail || ring.size == 0 ||
        rte_vhost_get_vring_base(vid, vring, &position, &used) != 0)
      break;
    const uint16_t want = std::min<uint16_t>(n - sent, kBurst);
    const bool mergeable = Has(features(), kNetMrgRxbuf);
    const GuestMemoryMap memory(vid);
    RxScan scan;
    ScanSplit(
        ring.desc, ring.avail, ring.size, position, mergeable ? kIndexPageChains : want,
        [&](uint64_t gpa, uint64_t bytes) { return memory.At(gpa, bytes); }, scan, v.place.page->ranges);
    const uint16_t fit = FramesThatFit(
        mergeable, scan.chains, [&](unsigned chain) { return scan.room[chain]; }, frames + sent, want);
    if (fit == 0) break;
    v.place.page->range_count.store(scan.ranges, std::memory_order_release);
    const uint16_t done = rte_vhost_enqueue_burst(vid, vring, frames + sent, fit);
    v.place.page->range_count.store(0, std::memory_order_release);
    sent += done;
    if (done < fit) break;
  }
  return sent;
}

// How many of the frames the scanned chains surely hold; while the front-end logs, all their buffers are on the index
// page then, and there may be fewer chains.
uint16_t GuestEndpoint::PackedFramesThatFit(int vid, Vring& v, uint16_t position, unsigned& chains, rte_mbuf** frames,
                                            uint16_t n) {
  const bool mergeable = Has(features(), kNetMrgRxbuf);
  const GuestMemoryMap memory(vid);
  if (logging()) {
    RxScan scan;
    ScanPacked(
        v.place.packed, v.place.size, position, v.place.page->chains, chains,
        [&](uint64_t gpa, uint64_t bytes) { return memory.At(gpa, bytes); }, scan, v.place.page->ranges);
    chains = scan.chains;
    v.place.page->range_count.store(scan.ranges, std::memory_order_release);
    return FramesThatFit(
        mergeable, chains, [&](unsigned chain) { return scan.room[chain]; }, frames, n);
  }
  const auto room = [&](unsigned index) {
    const IndexPageChain& chain = v.place.page->chains[index];
    const int64_t bytes = ChainRoom(v.place.packed, v.place.size, position, chain, memory);
    position = Advance(position, chain.slots, v.place.size);
    return bytes;
  };
  return FramesThatFit(mergeable, chains, room, frames, n);
}

uint16_t GuestEndpoint::TransmitJournalled(int vid, uint16_t vring, rte_mbuf** frames, uint16_t n) {
  Vring& v = vrings_[vring];
  const bool mergeable = Has(features(), kNetMrgRxbuf);
  uint16_t sent = 0;
  while (sent < n) {
    uint16_t position = 0, used = 0;
    if (rte_vhost_get_vring_base(vid, vring, &position, &used) != 0) break;
    const uint16_t want = std::min<uint16_t>(n - sent, kBurst);
    const unsigned limit = mergeable ? kIndexPageChains : want;
    unsigned chains = ScanChains(v.place.packed, v.place.size, position, v.place.page->chains, limit);
    const uint16_t fit = PackedFramesThatFit(vid, v, position, chains, frames + sent, want);
    uint16_t done = 0;
    if (fit > 0) {
      v.place.page->head.store(IndexPageHead(position, static_cast<uint16_t>(chains)), std::memory_order_release);
      done = rte_vhost_enqueue_burst(vid, vring, frames + sent, fit);
      uint16_t after = position;
      rte_vhost_get_vring_base(vid, vring, &after, &used);
      if (logging()) MarkSlots(vid, v, position, after);
      v.place.page->head.store(IndexPageHead(after, 0), std::memory_order_release);
    }
    v.place.page->range_count.store(0, std::memory_order_release);
    sent += done;
    if (fit == 0 || done < fit) break;
  }
  return sent;
}

// Packed rings: librte_vhost marks its used descriptors at log_guest_addr, as if that were the descriptor ring's; QEMU
// tells the device event area's there. A migration would lose used descriptors that nobody else marks.
void GuestEndpoint::MarkSlots(int vid, const Vring& v, uint16_t from, uint16_t to) {
  const uint16_t first = from & 0x7fff, end = to & 0x7fff;
  if (from == to || v.place.desc == 0) return;
  const auto mark = [&](uint16_t start, uint16_t slots) {
    Mark(vid, {v.place.desc + start * sizeof(PackedDesc), slots * sizeof(PackedDesc)});
  };
  if (first < end) {
    mark(first, end - first);
  } else {
    mark(first, v.place.size - first);
    mark(0, end);
  }
}

// librte_vhost asks for kicks, or for none, without marking where it wrote that.
void GuestEndpoint::MarkEvents(int vid, const Vring& v) {
  if (v.place.used == 0) return;
  Mark(vid, {v.place.used, sizeof(uint32_t)});  // packed: all of it; split: flags
  if (!v.place.packed) {
    const uint64_t avail_event = offsetof(vring_used, ring) + sizeof(vring_used_elem) * v.place.size;
    Mark(vid, {v.place.used + avail_event, sizeof(uint16_t)});
  }
}

void GuestEndpoint::Mark(int vid, const GuestRange& range) {
  log_gate_.Pass([&] { rte_vhost_log_write(vid, range.guest_phys_addr, range.bytes); });
}

void GuestEndpoint::SetNotification(bool on) {
  for (uint16_t vring = 1; vring < max_vrings_; vring += 2) {
    const int vid = UsableVid(vring);
    if (vid < 0) continue;
    rte_vhost_enable_guest_notification(vid, vring, on);
    if (logging()) MarkEvents(vid, vrings_[vring]);
  }
}

}  // namespace everport
