#include "backend/datapath/rx_scan.h"

#define VIRTIO_RING_NO_LEGACY  // its inline functions are C
#include <linux/virtio_ring.h>

#include <algorithm>
#include <optional>

namespace everport {
namespace {

using Buffers = std::array<IndexPageRange, RxScan::kMaxTable>;

// How many buffers the chain has that begins with descriptor `head`; nullopt if it has no end.
std::optional<unsigned> SplitBuffers(const vring_desc* desc, uint16_t size, uint16_t head, ReachGuest reach,
                                     Buffers& buffers) {
  if (head >= size) return std::nullopt;
  const vring_desc* table = desc;
  uint32_t entries = size;
  uint16_t index = head;
  if (desc[head].flags & VRING_DESC_F_INDIRECT) {
    const uint64_t at = desc[head].addr;
    entries = desc[head].len / sizeof(vring_desc);
    table = entries > size ? nullptr : static_cast<const vring_desc*>(reach(at, entries * sizeof(vring_desc)));
    index = 0;
  }
  for (unsigned n = 0; table != nullptr && n < std::min<uint32_t>(entries, RxScan::kMaxTable); ++n) {
    if (index >= entries) return std::nullopt;
    const vring_desc& one = table[index];
    buffers[n] = {one.addr, one.len};
    if (!(one.flags & VRING_DESC_F_NEXT)) return n + 1;
    index = one.next;
  }
  return std::nullopt;
}

std::optional<unsigned> PackedBuffers(const PackedDesc* ring, uint16_t size, uint16_t position,
                                      const IndexPageChain& chain, ReachGuest reach, Buffers& buffers) {
  if (chain.head_flags & kPackedIndirect) {
    const uint32_t entries = chain.head_len / sizeof(PackedDesc);
    if (entries > RxScan::kMaxTable) return std::nullopt;
    const auto* table =
        static_cast<const PackedDesc*>(reach(ring[position & 0x7fff].addr, entries * sizeof(PackedDesc)));
    if (table == nullptr) return std::nullopt;
    for (uint32_t i = 0; i < entries; ++i) buffers[i] = {table[i].addr, table[i].len};
    return entries;
  }
  if (chain.slots > RxScan::kMaxTable) return std::nullopt;
  for (uint16_t i = 0; i < chain.slots; ++i, position = Advance(position, 1, size)) {
    const PackedDesc& one = ring[position & 0x7fff];
    buffers[i] = {one.addr, i == 0 ? chain.head_len : one.len};
  }
  return chain.slots;
}

}  // namespace

bool RxScan::Add(const IndexPageRange* buffers, unsigned count, IndexPageRange* out) {
  if (chains == kIndexPageChains || ranges + count > kIndexPageRanges) return false;
  int64_t bytes = 0;
  for (unsigned i = 0; i < count; ++i) {
    bytes += static_cast<int64_t>(buffers[i].bytes);
    out[ranges++] = {buffers[i].guest_phys_addr, std::min(buffers[i].bytes, kIndexPageRangeBytes)};
  }
  room[chains++] = bytes;
  return true;
}

void ScanSplit(const vring_desc* desc, const vring_avail* avail, uint16_t size, uint16_t position, unsigned max_chains,
               ReachGuest reach, RxScan& scan, IndexPageRange* out) {
  const uint16_t end = __atomic_load_n(&avail->idx, __ATOMIC_ACQUIRE);
  const unsigned available = std::min<unsigned>(static_cast<uint16_t>(end - position), size);
  Buffers buffers;
  for (unsigned n = 0; n < std::min(available, max_chains); ++n, ++position) {
    const auto count = SplitBuffers(desc, size, avail->ring[position & (size - 1)], reach, buffers);
    if (!count || !scan.Add(buffers.data(), *count, out)) return;
  }
}

void ScanPacked(const PackedDesc* ring, uint16_t size, uint16_t position, const IndexPageChain* chains, unsigned count,
                ReachGuest reach, RxScan& scan, IndexPageRange* out) {
  Buffers buffers;
  for (unsigned n = 0; n < count; ++n) {
    const auto found = PackedBuffers(ring, size, position, chains[n], reach, buffers);
    if (!found || !scan.Add(buffers.data(), *found, out)) return;
    position = Advance(position, chains[n].slots, size);
  }
}

}  // namespace everport
