#pragma once

// Reads a packed ring (virtio 1.2, 2.8) as the guest left it, to write the next burst's chains into the index page.
// Pure functions on shared memory. The guest may change it meanwhile: whatever it does, nothing outside the ring is
// read and the scan ends; what was read may then be nonsense, which is that guest's loss alone.

#include <cstdint>

#include "backend/keeper/index_page.h"

namespace everport {

// virtio 1.2, 2.8.13. Little-endian, like every guest we serve.
struct PackedDesc {
  uint64_t addr;
  uint32_t len;
  uint16_t id;
  uint16_t flags;
};
static_assert(sizeof(PackedDesc) == 16);

inline constexpr uint16_t kPackedNext = 1 << 0;
inline constexpr uint16_t kPackedWrite = 1 << 1;
inline constexpr uint16_t kPackedIndirect = 1 << 2;
inline constexpr uint16_t kPackedAvail = 1 << 7;
inline constexpr uint16_t kPackedUsed = 1 << 15;

// Ring positions as everywhere: index in bits 0-14, wrap counter in bit 15 (rte_vhost_get_vring_base, index_page.h).
// position's index < size; slots <= size <= 32768.
constexpr uint16_t Advance(uint16_t position, uint16_t slots, uint16_t size) {
  const uint32_t index = (position & 0x7fffu) + slots;
  const uint16_t wrap = position & 0x8000u;
  return index < size ? static_cast<uint16_t>(wrap | index) : static_cast<uint16_t>((wrap ^ 0x8000u) | (index - size));
}

// Fills out with the complete available chains that lie at position, at most max_chains, and returns how many.
// A chain ends the scan if not all of it is available yet, or if with it more slots than the ring has were taken (a
// loop). A descriptor with an indirect table is one slot; the table is not looked at.
// ring: `size` descriptors, 16-byte aligned. Reads of an available head are acquire (2.8.21.1 has the driver's side).
unsigned ScanChains(const PackedDesc* ring, uint16_t size, uint16_t position, IndexPageChain* out, unsigned max_chains);

}  // namespace everport
