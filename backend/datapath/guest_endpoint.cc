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
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "backend/base/event_signal.h"
#include "backend/base/log.h"
#include "backend/datapath/journal_scan.h"
#include "migration/feature_contract.h"

namespace everport {
namespace {

bool Has(uint64_t features, unsigned bit) {
  return features >> bit & 1;
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
    EndOffload(-1, /*for_log=*/false);
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
    ring.enabled = enabled_vrings() >> vring & 1;
    // SET_VRING_ADDR takes a ring's addresses away for a moment, of a ring in use at a migration's begin and end.
    const absl::Time patience = absl::Now() + absl::Milliseconds(ring.enabled ? 2 : 0);
    while (rte_vhost_get_vhost_vring(vid, vring, &info) == 0 && !info.desc && absl::Now() < patience)
      std::this_thread::yield();
    if (!info.desc || info.size == 0) continue;
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

bool GuestEndpoint::SetOffload(StopOffload stop, bool logs) {
  const std::lock_guard lock(offload_mutex_);
  if (vid_.load(std::memory_order_seq_cst) < 0 || (logging() && !logs)) return false;
  stop_offload_ = std::move(stop);
  offload_logs_ = logs;
  return true;
}

bool GuestEndpoint::ClearOffload() {
  const std::lock_guard lock(offload_mutex_);
  return std::exchange(stop_offload_, nullptr) != nullptr;
}

// The device lets go, if one is there. for_log: of one that logs nothing; vid_ or features_ tell SetOffload already.
// The rings' positions are written before the pollers may use them. Event thread, or none can come any more.
void GuestEndpoint::EndOffload(int vid, bool for_log) {
  StopOffload stop;
  {
    const std::lock_guard lock(offload_mutex_);
    if (!for_log || !offload_logs_) stop = std::exchange(stop_offload_, nullptr);
  }
  if (!stop) return;
  const GuestRings rings = stop(/*hurry=*/for_log);
  if (rings.rings.empty()) return;
  if (vid >= 0) WritePositions(vid, rings);
  SetServedByDevice(false);
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

// Guest physical addresses are 0 until OnNewDevice has the memory. (rte_vhost_get_mem_table must not be asked before:
// straight to QEMU there may be none.)
GuestEndpoint::Place GuestEndpoint::PlaceOf(int vid, uint16_t vring, bool packed) const {
  Place place;
  rte_vhost_vring info{};
  if (rte_vhost_get_vhost_vring(vid, vring, &info) != 0) return place;
  const std::lock_guard lock(mutex_);
  const auto gpa = [&](const void* address) -> uint64_t {
    for (const Range& range : memory_) {
      const uint64_t offset = reinterpret_cast<uintptr_t>(address) - range.start;
      if (offset < range.size) return range.guest_phys_addr + offset;
    }
    return 0;
  };
  if (packed) place.packed = reinterpret_cast<const PackedDesc*>(info.desc_packed);
  place.size = info.size;
  place.desc = gpa(info.desc);  // unions with the packed ring's parts
  place.used = gpa(info.used);
  if (index_page_) place.page = &index_page_->vring(vring);
  return place;
}

void GuestEndpoint::OnFeatures(uint64_t features) {
  if (retired_.load(std::memory_order_seq_cst)) return;
  features_.store(features, std::memory_order_seq_cst);
  // The front-end goes on when we return, and relies on every write being marked.
  if (Has(features, kVhostLogAll)) EndOffload(vid_.load(std::memory_order_seq_cst), /*for_log=*/true);
  hooks_.changed();
}

// After a SET_LOG_BASE that failed there is no AfterMessage, and the next message comes here.
void GuestEndpoint::BeforeMessage(int vid, uint32_t request) {
  constexpr uint32_t kSetLogBase = 6;  // vhost-user.rst, "Front-end message types"
  AfterMessage(vid);
  if (request == kSetLogBase) log_gate_.Close();
}

// The pollers have left out what they would have marked meanwhile.
void GuestEndpoint::AfterMessage(int vid) {
  if (log_gate_.Open() && logging()) MarkRings(vid);
}

// All that Mark is ever told of.
void GuestEndpoint::MarkRings(int vid) {
  for (uint16_t vring = 0; vring < max_vrings_; ++vring) {
    const Place& place = vrings_[vring].place;
    if (!(enabled_vrings() >> vring & 1) || place.desc == 0 || place.used == 0) continue;
    for (const GuestRange& part : WrittenRingParts(place.packed != nullptr, place.size, place.desc, place.used))
      Mark(vid, part);
  }
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
    const Place place = PlaceOf(vid, vring, packed);
    // Enabled again while the device runs, and a poller may still be in it: the keeper lets no started ring move, so
    // nothing is written. Another session's follows an OnDestroyDevice, which has seen the pollers outside.
    if (v.place != place) v.place = place;
    NoteRingSize(place.size);
    if (vring == 0)
      ring_address_.store(packed ? static_cast<const void*>(info.desc_packed) : info.desc, std::memory_order_release);
    {
      std::lock_guard lock(mutex_);
      v.kick.reset(info.kickfd >= 0 ? fcntl(info.kickfd, F_DUPFD_CLOEXEC, 0) : -1);
    }
    features_.store(features, std::memory_order_release);
    if (logging()) MarkEvents(vid, v);  // librte_vhost has just written them
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
  for (uint16_t vring = 0; vring < max_vrings_; ++vring) {  // no poller is in any yet
    if (!(enabled_vrings() >> vring & 1)) continue;
    vrings_[vring].place = PlaceOf(vid, vring, Has(features, kRingPacked));
    NoteRingSize(vrings_[vring].place.size);
    if (logging()) MarkEvents(vid, vrings_[vring]);  // written when it was enabled, when its place was not known
  }
  arrived_.store(RingsUsed(vid, Has(features, kRingPacked)), std::memory_order_release);
  vid_.store(vid, std::memory_order_seq_cst);
  if (retired_.load(std::memory_order_seq_cst)) {  // Retire came at the same time and may be through
    vid_.store(-1, std::memory_order_seq_cst);
    hooks_.synchronize();
    return;
  }
  generation_.fetch_add(1, std::memory_order_acq_rel);
  hooks_.changed();
}

// A ring begins at 0, a packed one with its wrap counter (bit 15) set: virtio 1.2, 2.8.1.
bool GuestEndpoint::RingsUsed(int vid, bool packed) const {
  const uint16_t start = packed ? 1u << 15 : 0;
  for (uint16_t vring = 0; vring < max_vrings_; ++vring) {
    uint16_t avail = start, used = start;
    const bool enabled = enabled_vrings() >> vring & 1;
    if (enabled && rte_vhost_get_vring_base(vid, vring, &avail, &used) == 0 && avail != start) return true;
  }
  return false;
}

void GuestEndpoint::RememberMemory(int vid) {
  rte_vhost_memory* table = nullptr;
  std::lock_guard lock(mutex_);
  memory_.clear();
  if (rte_vhost_get_mem_table(vid, &table) != 0) return;
  for (uint32_t i = 0; i < table->nregions; ++i)
    memory_.push_back({static_cast<uintptr_t>(table->regions[i].host_user_addr), table->regions[i].size,
                       table->regions[i].guest_phys_addr});
  free(table);
}

void GuestEndpoint::OnDestroyDevice() {
  // The enabled mask stays: librte_vhost reports those vrings that it stops, and keeps the others ready.
  bool in_use = false;
  {
    std::lock_guard lock(device_mutex_);
    const int vid = vid_.exchange(-1, std::memory_order_seq_cst);
    in_use = vid >= 0;
    EndOffload(vid, /*for_log=*/false);
  }
  ring_address_.store(nullptr, std::memory_order_release);
  ring_size_.store(0, std::memory_order_release);
  generation_.fetch_add(1, std::memory_order_acq_rel);
  {
    const std::lock_guard lock(mutex_);
    memory_.clear();
  }
  if (in_use) hooks_.synchronize();  // else Retire has, or nobody saw the device
  if (in_use) {                      // suspicions end with the session: its positions come again in the next
    for (Vring& v : vrings_) v.ForgetSuspicions();
  }
  hooks_.changed();
}

}  // namespace everport
