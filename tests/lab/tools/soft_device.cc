#include "tests/lab/tools/soft_device.h"

#include <cstring>

#include "backend/datapath/virtio_net_abi.h"

namespace everport {

SoftDevice::SoftDevice(const GuestRings& rings) : regions_(rings.regions) {
  for (const auto& ring : rings.rings)
    rings_.push_back({ring.size, ring.avail_base, Host(ring.desc), reinterpret_cast<const uint16_t*>(Host(ring.avail)),
                      reinterpret_cast<uint16_t*>(Host(ring.used))});
}

uint8_t* SoftDevice::Host(uint64_t gpa) const {
  for (const auto& region : regions_) {
    if (gpa >= region.gpa && gpa - region.gpa < region.size)
      return static_cast<uint8_t*>(region.address) + (gpa - region.gpa);
  }
  return nullptr;
}

void SoftDevice::Use(Ring& ring, uint16_t head, uint32_t bytes) {
  const uint32_t entry[2] = {head, bytes};
  std::memcpy(ring.used + 2 + 4 * (ring.position % ring.size), entry, sizeof entry);
  __atomic_store_n(ring.used + 1, ++ring.position, __ATOMIC_RELEASE);
}

bool SoftDevice::EchoOne(Ring& rx, Ring& tx) {
  const auto head = [](const Ring& ring) { return ring.avail[2 + ring.position % ring.size]; };
  const auto ready = [](const Ring& ring) {
    return __atomic_load_n(ring.avail + 1, __ATOMIC_ACQUIRE) != ring.position;
  };
  if (!ready(rx) || !ready(tx)) return false;
  virtio_net::Desc from, to;
  std::memcpy(&from, tx.desc + size_t{16} * head(tx), sizeof from);
  std::memcpy(&to, rx.desc + size_t{16} * head(rx), sizeof to);
  uint8_t* buffer = Host(to.addr);
  std::memcpy(buffer, Host(from.addr), from.len);
  const uint16_t one = 1;  // num_buffers
  std::memcpy(buffer + 10, &one, sizeof one);
  Use(tx, head(tx), 0);
  Use(rx, head(rx), from.len);
  return true;
}

unsigned SoftDevice::RunOnce() {
  unsigned frames = 0;
  for (size_t vring = 0; vring + 1 < rings_.size(); vring += 2) {
    for (int i = 0; i < 32 && EchoOne(rings_[vring], rings_[vring + 1]); ++i) ++frames;
  }
  return frames;
}

void SoftDevice::Stop(GuestRings& rings) const {
  for (size_t vring = 0; vring < rings_.size(); ++vring)
    rings.rings[vring].avail_base = rings.rings[vring].used_base = rings_[vring].position;
}

}  // namespace everport
