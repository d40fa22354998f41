#include "backend/datapath/guest_endpoint.h"

#include <fcntl.h>
#define VIRTIO_RING_NO_LEGACY  // its inline functions are C
#include <linux/virtio_ring.h>
#include <rte_cycles.h>
#include <rte_mbuf.h>
#include <rte_vhost.h>

#include <algorithm>
#include <bit>
#include <cstdlib>
#include <utility>

#include "absl/strings/str_cat.h"
#include "backend/base/event_signal.h"
#include "backend/base/log.h"
#include "backend/datapath/journal_scan.h"
#include "migration/feature_contract.h"

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

}  // namespace

GuestEndpoint::GuestEndpoint(std::string port, uint16_t max_queue_pairs, std::shared_ptr<IndexPageMap> index_page,
                             Hooks hooks)
    : port_(std::move(port)),
      max_vrings_(2 * max_queue_pairs),
      index_page_(std::move(index_page)),
      hooks_(std::move(hooks)),
      vrings_(max_vrings_) {}

GuestEndpoint::~GuestEndpoint() = default;

// Queues towards the guest that are enabled without a gap from 0: frames are spread over these.
uint16_t GuestEndpoint::transmit_queues() const {
  const uint32_t rx_vrings = enabled_vrings() & 0x55555555u;
  uint16_t pairs = 0;
  while (pairs < max_vrings_ / 2 && rx_vrings >> (2 * pairs) & 1) ++pairs;
  return pairs;
}

uint16_t GuestEndpoint::receive_queues() const {
  const uint32_t tx_vrings = enabled_vrings() & 0xaaaaaaaau;
  return static_cast<uint16_t>((std::bit_width(tx_vrings) + 1) / 2);
}

OffloadCaps GuestEndpoint::transmit_caps() const {
  const uint64_t features = this->features();
  OffloadCaps caps{};
  caps.l4_checksum = Has(features, kNetGuestCsum);
  caps.tso4 = Has(features, kNetGuestTso4);
  caps.tso6 = Has(features, kNetGuestTso6);
  caps.mtu = mtu_;
  return caps;
}

int GuestEndpoint::UsableVid(uint16_t vring) const {
  if (served_by_device_.load(std::memory_order_acquire)) return -1;
  if (vring >= max_vrings_ || !(enabled_.load(std::memory_order_acquire) >> vring & 1)) return -1;
  return vid_.load(std::memory_order_acquire);
}

uint16_t GuestEndpoint::Receive(uint16_t queue, rte_mbuf** frames, uint16_t n) {
  const uint16_t vring = 2 * queue + 1;
  const int vid = UsableVid(vring);
  if (vid < 0) return 0;
  n = std::min(n, kBurst);
  if (vrings_[vring].journalled.page) return ReceiveJournalled(vid, vring, frames, n);
  uint16_t avail_before = 0, avail_after = 0, used = 0;
  rte_vhost_get_vring_base(vid, vring, &avail_before, &used);
  const uint16_t got = rte_vhost_dequeue_burst(vid, vring, pool_, frames, n);
  // A suspicion must not outlive progress: positions come again, after a lap or in the next session.
  if (got > 0) vrings_[vring].stuck_since = 0;
  if (got == n || Has(features(), kRingPacked)) return got;
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
  const unsigned chains = ScanChains(v.journalled.ring, v.journalled.size, position, v.journalled.page->chains, n);
  if (chains == 0) {
    NoteIncompleteChain(v, position);
    return 0;
  }
  v.suspect_at = v.broken_at = -1;
  v.journalled.page->head.store(IndexPageHead(position, static_cast<uint16_t>(chains)), std::memory_order_release);
  const uint16_t got = rte_vhost_dequeue_burst(vid, vring, pool_, frames, static_cast<uint16_t>(chains));
  uint16_t after = position;
  rte_vhost_get_vring_base(vid, vring, &after, &used);
  v.journalled.page->head.store(IndexPageHead(after, 0), std::memory_order_release);
  if (got < chains) {
    unsigned consumed = 0;
    for (uint16_t at = position; at != after && consumed < chains; ++consumed)
      at = Advance(at, v.journalled.page->chains[consumed].slots, v.journalled.size);
    if (consumed > got) CountMalformed(consumed - got);
  }
  return got;
}

// The head is available and the chain does not end: the driver makes the head available last (virtio 1.2, 2.8.21), so
// this ring is broken until the guest resets it. Counted once.
void GuestEndpoint::NoteIncompleteChain(Vring& v, uint16_t position) {
  const uint16_t flags = __atomic_load_n(&v.journalled.ring[position & 0x7fff].flags, __ATOMIC_ACQUIRE);
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
    sent = vrings_[vring].journalled.page ? TransmitJournalled(vid, vring, frames, n)
                                          : TransmitPlain(vid, vring, frames, n);
    vrings_[vring].sending.clear(std::memory_order_release);
  }
  rte_pktmbuf_free_bulk(frames, sent);  // librte_vhost copied them
  return sent;
}

uint16_t GuestEndpoint::TransmitPlain(int vid, uint16_t vring, rte_mbuf** frames, uint16_t n) {
  uint16_t sent = 0;
  while (sent < n) {
    const uint16_t want = std::min<uint16_t>(n - sent, kBurst);
    const uint16_t done = rte_vhost_enqueue_burst(vid, vring, frames + sent, want);
    sent += done;
    if (done < want) break;
  }
  return sent;
}

// How many of the frames the first `chains` chains surely hold. Without MRG_RXBUF a frame takes one chain, with it as
// many as its length needs.
uint16_t GuestEndpoint::FramesThatFit(int vid, const Vring& v, uint16_t position, unsigned chains, rte_mbuf** frames,
                                      uint16_t n) const {
  if (!Has(features(), kNetMrgRxbuf)) return static_cast<uint16_t>(std::min<unsigned>(n, chains));
  const GuestMemoryMap memory(vid);
  unsigned taken = 0;
  for (uint16_t i = 0; i < n; ++i) {
    int64_t left = int64_t{frames[i]->pkt_len} + kNetHeader;
    while (left > 0) {
      if (taken == chains) return i;
      const IndexPageChain& chain = v.journalled.page->chains[taken++];
      left -= ChainRoom(v.journalled.ring, v.journalled.size, position, chain, memory);
      position = Advance(position, chain.slots, v.journalled.size);
    }
  }
  return n;
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
    const unsigned chains =
        ScanChains(v.journalled.ring, v.journalled.size, position, v.journalled.page->chains, limit);
    const uint16_t fit = FramesThatFit(vid, v, position, chains, frames + sent, want);
    if (fit == 0) break;
    v.journalled.page->head.store(IndexPageHead(position, static_cast<uint16_t>(chains)), std::memory_order_release);
    const uint16_t done = rte_vhost_enqueue_burst(vid, vring, frames + sent, fit);
    uint16_t after = position;
    rte_vhost_get_vring_base(vid, vring, &after, &used);
    v.journalled.page->head.store(IndexPageHead(after, 0), std::memory_order_release);
    sent += done;
    if (done < fit) break;
  }
  return sent;
}

void GuestEndpoint::SetNotification(bool on) {
  for (uint16_t vring = 1; vring < max_vrings_; vring += 2) {
    const int vid = UsableVid(vring);
    if (vid >= 0) rte_vhost_enable_guest_notification(vid, vring, on);
  }
}

std::vector<Endpoint::WakeFd> GuestEndpoint::WakeFds(bool& complete) {
  std::lock_guard lock(mutex_);
  std::vector<WakeFd> fds;
  for (uint16_t vring = 1; vring < max_vrings_; vring += 2) {
    if (!(enabled_vrings() >> vring & 1)) continue;
    if (vrings_[vring].kick.valid()) {
      fds.push_back({vrings_[vring].kick.Dup(), true});
    } else {
      complete = false;  // the guest polls (VHOST_USER_VRING_NOFD)
    }
  }
  return fds;
}

bool GuestEndpoint::Owns(uintptr_t address) const {
  std::lock_guard lock(mutex_);
  return std::any_of(memory_.begin(), memory_.end(),
                     [&](const Range& range) { return address >= range.start && address - range.start < range.size; });
}

void GuestEndpoint::Retire() {
  retired_.store(true, std::memory_order_seq_cst);
  {
    std::lock_guard lock(device_mutex_);
    vid_.store(-1, std::memory_order_seq_cst);
    if (StopOffload stop = std::exchange(stop_offload_, nullptr)) stop();
  }
  enabled_.store(0, std::memory_order_release);
  hooks_.synchronize();
}

void GuestEndpoint::Revive() {
  for (Vring& v : vrings_) v.ForgetSuspicions();
  OnConnection(false);
  vdpa_refused_.store(false, std::memory_order_release);
  retired_.store(false, std::memory_order_seq_cst);
}

GuestRings GuestEndpoint::ReadRings(int vid) const {
  GuestRings rings;
  rings.features = features();
  const bool packed = Has(rings.features, kRingPacked);
  rte_vhost_memory* table = nullptr;
  if (rte_vhost_get_mem_table(vid, &table) != 0) return rings;
  for (uint32_t i = 0; i < table->nregions; ++i) {
    const rte_vhost_mem_region& region = table->regions[i];
    rings.regions.push_back({region.guest_phys_addr, region.size, reinterpret_cast<void*>(region.host_user_addr)});
  }
  free(table);
  const auto gpa = [&](const void* address) -> uint64_t {
    for (const GuestRings::Region& region : rings.regions) {
      const auto offset = reinterpret_cast<uintptr_t>(address) - reinterpret_cast<uintptr_t>(region.address);
      if (offset < region.size) return region.gpa + offset;
    }
    return 0;
  };
  for (uint16_t vring = 0; vring < max_vrings_; ++vring) {
    GuestRings::Ring& ring = rings.rings.emplace_back();
    rte_vhost_vring info{};
    if (rte_vhost_get_vhost_vring(vid, vring, &info) != 0 || !info.desc || info.size == 0) continue;
    ring.enabled = enabled_vrings() >> vring & 1;
    ring.size = info.size;
    ring.desc = gpa(info.desc);
    ring.avail = gpa(info.avail);  // unions with the packed ring's event areas
    ring.used = gpa(info.used);
    rte_vhost_get_vring_base(vid, vring, &ring.avail_base, &ring.used_base);
    if (!packed) {
      ring.avail_idx = &info.avail->idx;
      ring.used_idx = &info.used->idx;
    }
    if (info.kickfd >= 0) ring.kick.reset(fcntl(info.kickfd, F_DUPFD_CLOEXEC, 0));
    if (info.callfd >= 0) ring.call.reset(fcntl(info.callfd, F_DUPFD_CLOEXEC, 0));
  }
  return rings;
}

absl::StatusOr<GuestRings> GuestEndpoint::Rings() {
  const std::unique_lock lock(device_mutex_, std::try_to_lock);  // held elsewhere: it is going away
  const int vid = lock ? vid_.load(std::memory_order_acquire) : -1;
  if (vid < 0)
    return absl::FailedPreconditionError(absl::StrCat("port ", port_, ": the guest's device is not running"));
  return ReadRings(vid);
}

void GuestEndpoint::WritePositions(int vid, const GuestRings& rings) {
  const auto vrings = static_cast<uint16_t>(std::min<size_t>(rings.rings.size(), max_vrings_));
  for (uint16_t vring = 0; vring < vrings; ++vring) {
    const GuestRings::Ring& ring = rings.rings[vring];
    if (ring.size > 0) rte_vhost_set_vring_base(vid, vring, ring.avail_base, ring.used_base);
  }
}

void GuestEndpoint::SetPositions(const GuestRings& rings) {
  const std::unique_lock lock(device_mutex_, std::try_to_lock);
  if (const int vid = lock ? vid_.load(std::memory_order_acquire) : -1; vid >= 0) WritePositions(vid, rings);
}

void GuestEndpoint::SetServedByDevice(bool served) {
  if (served_by_device_.exchange(served, std::memory_order_seq_cst) != served && served) hooks_.synchronize();
}

bool GuestEndpoint::SetOffload(StopOffload stop) {
  const std::unique_lock lock(device_mutex_, std::try_to_lock);
  if (!lock || vid_.load(std::memory_order_acquire) < 0) return false;
  stop_offload_ = std::move(stop);
  return true;
}

void GuestEndpoint::ClearOffload() {
  const std::unique_lock lock(device_mutex_, std::try_to_lock);
  if (lock) stop_offload_ = nullptr;
}

void GuestEndpoint::CallAll() {
  const std::unique_lock lock(device_mutex_, std::try_to_lock);
  const int vid = lock ? vid_.load(std::memory_order_acquire) : -1;
  for (uint16_t vring = 0; vid >= 0 && vring < max_vrings_; ++vring) {
    if (enabled_vrings() >> vring & 1) rte_vhost_vring_call(vid, vring);
  }
}

void GuestEndpoint::KickAll() {
  const std::lock_guard lock(mutex_);
  for (const Vring& v : vrings_) {
    if (v.kick.valid()) SignalEvent(v.kick.get());
  }
}

void GuestEndpoint::OnVdpaRefused() {
  vdpa_refused_.store(true, std::memory_order_release);
  hooks_.changed();
}

void GuestEndpoint::OnConnection(bool connected) {
  enabled_.store(0, std::memory_order_release);  // librte_vhost does not report the vrings of a lost connection
  {
    std::lock_guard lock(mutex_);
    for (Vring& v : vrings_) v.kick.reset();  // the guest's, which has gone
  }
  connected_.store(connected, std::memory_order_release);
  hooks_.changed();
}

// May come with the vring's write lock held: nothing here may wait for a poller.
void GuestEndpoint::OnVringState(int vid, uint16_t vring, bool enabled) {
  if (vring >= max_vrings_ || retired_.load(std::memory_order_seq_cst)) return;
  if (enabled) {
    rte_vhost_vring info{};
    uint64_t features = 0;
    if (rte_vhost_get_vhost_vring(vid, vring, &info) != 0 || rte_vhost_get_negotiated_features(vid, &features) != 0)
      return;
    const bool packed = Has(features, kRingPacked);
    Vring& v = vrings_[vring];
    JournalledRing journalled;
    if (packed && index_page_)
      journalled = {reinterpret_cast<const PackedDesc*>(info.desc_packed), info.size, &index_page_->vring(vring)};
    // Enabled again while the device runs, and a poller may still be in it: the keeper lets no started ring move, so
    // nothing is written. Another session's follows an OnDestroyDevice, which has seen the pollers outside.
    if (v.journalled != journalled) v.journalled = journalled;
    if (vring == 0)
      ring_address_.store(packed ? static_cast<const void*>(info.desc_packed) : info.desc, std::memory_order_release);
    {
      std::lock_guard lock(mutex_);
      v.kick.reset(info.kickfd >= 0 ? fcntl(info.kickfd, F_DUPFD_CLOEXEC, 0) : -1);
    }
    features_.store(features, std::memory_order_release);
    enabled_.fetch_or(1u << vring, std::memory_order_acq_rel);
  } else {
    enabled_.fetch_and(~(1u << vring), std::memory_order_acq_rel);
  }
  generation_.fetch_add(1, std::memory_order_acq_rel);
  hooks_.changed();
}

void GuestEndpoint::OnNewDevice(int vid) {
  if (retired_.load(std::memory_order_seq_cst)) return;
  RememberMemory(vid);
  uint64_t features = 0;
  rte_vhost_get_negotiated_features(vid, &features);
  features_.store(features, std::memory_order_release);
  vid_.store(vid, std::memory_order_seq_cst);
  if (retired_.load(std::memory_order_seq_cst)) {  // Retire came at the same time and may be through
    vid_.store(-1, std::memory_order_seq_cst);
    hooks_.synchronize();
    return;
  }
  generation_.fetch_add(1, std::memory_order_acq_rel);
  hooks_.changed();
}

void GuestEndpoint::RememberMemory(int vid) {
  rte_vhost_memory* table = nullptr;
  std::lock_guard lock(mutex_);
  memory_.clear();
  if (rte_vhost_get_mem_table(vid, &table) != 0) return;
  for (uint32_t i = 0; i < table->nregions; ++i)
    memory_.push_back({static_cast<uintptr_t>(table->regions[i].host_user_addr), table->regions[i].size});
  free(table);
}

void GuestEndpoint::OnDestroyDevice() {
  // The enabled mask stays: librte_vhost reports those vrings that it stops, and keeps the others ready.
  bool in_use = false;
  {
    std::lock_guard lock(device_mutex_);
    const int vid = vid_.exchange(-1, std::memory_order_seq_cst);
    in_use = vid >= 0;
    if (StopOffload stop = std::exchange(stop_offload_, nullptr); stop && in_use) WritePositions(vid, stop());
  }
  ring_address_.store(nullptr, std::memory_order_release);
  generation_.fetch_add(1, std::memory_order_acq_rel);
  if (in_use) hooks_.synchronize();  // else Retire has, or nobody saw the device
  if (in_use) {                      // suspicions end with the session: its positions come again in the next
    for (Vring& v : vrings_) v.ForgetSuspicions();
  }
  hooks_.changed();
}

}  // namespace everport
