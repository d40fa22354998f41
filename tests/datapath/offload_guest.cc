#include "tests/datapath/offload_guest.h"

#include <sys/eventfd.h>

#include "migration/feature_contract.h"

namespace everport {
namespace {

constexpr uint32_t kFrame = 1514, kBuffer = 2048;

}  // namespace

OffloadGuest::OffloadGuest(const Options& options) : options_(options), memory_(options.regions, options.region_bytes) {
  const fakes::RingOptions ring{.size = options.ring_size,
                                .event_idx = (options.features >> kRingEventIdx & 1) != 0,
                                .in_order = (options.features >> kInOrder & 1) != 0};
  for (unsigned pair = 0; pair < options.queue_pairs; ++pair) {
    pairs_.push_back(
        {std::make_unique<fakes::RxQueue>(fakes::DriverRing::Make(ring, memory_), memory_, kBuffer, true, false, false),
         std::make_unique<fakes::TxQueue>(fakes::DriverRing::Make(ring, memory_), memory_, kFrame)});
  }
  vrings_.resize(2 * size_t{options.queue_pairs});
  for (unsigned vring = 0; vring < vrings_.size(); ++vring) RenewNotifiers(vring);
}

void OffloadGuest::RenewNotifiers(unsigned vring) {
  vrings_[vring].kick.reset(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  vrings_[vring].call.reset(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
}

fakes::DriverRing& OffloadGuest::ring(unsigned vring) {
  return vring % 2 == 0 ? pairs_[vring / 2].rx->ring() : pairs_[vring / 2].tx->ring();
}

uint16_t* OffloadGuest::UsedIndexAt(unsigned vring) const {
  const Pair& pair = pairs_[vring / 2];
  const fakes::DriverRing& ring = vring % 2 == 0 ? pair.rx->ring() : pair.tx->ring();
  return reinterpret_cast<uint16_t*>(memory_.Host(ring.device_gpa(), 4)) + 1;
}

uint16_t OffloadGuest::used_index(unsigned vring) const {
  return __atomic_load_n(UsedIndexAt(vring), __ATOMIC_ACQUIRE);
}

void OffloadGuest::SetUsedIndex(unsigned vring, uint16_t index) {
  __atomic_store_n(UsedIndexAt(vring), index, __ATOMIC_RELEASE);
}

GuestRings OffloadGuest::Rings() const {
  GuestRings rings;
  rings.features = options_.features | uint64_t{1} << kVersion1 | uint64_t{1} << kNetMrgRxbuf;
  for (const auto& region : memory_.Table())
    rings.regions.push_back(
        {region.guest_phys_addr, region.memory_size, reinterpret_cast<void*>(region.userspace_addr)});
  for (unsigned vring = 0; vring < vrings_.size(); ++vring) {
    const Pair& pair = pairs_[vring / 2];
    const fakes::DriverRing& ring = vring % 2 == 0 ? pair.rx->ring() : pair.tx->ring();
    GuestRings::Ring& to = rings.rings.emplace_back();
    to.enabled = vrings_[vring].enabled;
    to.size = ring.size();
    to.desc = ring.desc_gpa();
    to.avail = ring.driver_gpa();
    to.used = ring.device_gpa();
    to.avail_base = to.used_base = vrings_[vring].base;
    to.avail_idx = reinterpret_cast<uint16_t*>(memory_.Host(ring.driver_gpa(), 4)) + 1;
    to.used_idx = UsedIndexAt(vring);
    to.kick = vrings_[vring].kick.Dup();
    to.call = vrings_[vring].call.Dup();
  }
  return rings;
}

void OffloadGuest::Take(const GuestRings& rings) {
  for (unsigned vring = 0; vring < vrings_.size(); ++vring) vrings_[vring].base = rings.rings[vring].avail_base;
}

void OffloadGuest::Publish(unsigned pair) {
  if (pairs_[pair].rx->Publish()) ::eventfd_write(vrings_[2 * pair].kick.get(), 1);
  if (pairs_[pair].tx->Publish()) ::eventfd_write(vrings_[2 * pair + 1].kick.get(), 1);
}

}  // namespace everport
