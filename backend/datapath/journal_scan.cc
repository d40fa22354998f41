#include "backend/datapath/journal_scan.h"

#include <bit>
#include <cstddef>

namespace everport {
namespace {

static_assert(std::endian::native == std::endian::little);
static_assert(offsetof(PackedDesc, len) == 8 && offsetof(PackedDesc, id) == 12 && offsetof(PackedDesc, flags) == 14);

// len, id and flags of a descriptor in one load, so that they belong together.
struct Tail {
  explicit Tail(const PackedDesc& desc) {
    using Word [[gnu::may_alias]] = uint64_t;
    word = __atomic_load_n(reinterpret_cast<const Word*>(&desc.len), __ATOMIC_ACQUIRE);
  }
  uint32_t len() const { return static_cast<uint32_t>(word); }
  uint16_t id() const { return static_cast<uint16_t>(word >> 32); }
  uint16_t flags() const { return static_cast<uint16_t>(word >> 48); }
  // Available in the round that the wrap counter of position counts: AVAIL equal to it, USED not (2.8.1).
  bool AvailableAt(uint16_t position) const {
    return (flags() & (kPackedAvail | kPackedUsed)) == (position & 0x8000u ? kPackedAvail : kPackedUsed);
  }
  uint64_t word;
};

}  // namespace

unsigned ScanChains(const PackedDesc* ring, uint16_t size, uint16_t position, IndexPageChain* out,
                    unsigned max_chains) {
  if ((position & 0x7fffu) >= size) return 0;
  unsigned left = size;  // slots not yet taken by a chain
  for (unsigned n = 0; n < max_chains; ++n) {
    const Tail head(ring[position & 0x7fff]);
    Tail last = head;
    uint16_t slots = 0;
    for (;;) {
      if (slots == left || !last.AvailableAt(position)) return n;
      ++slots;
      position = Advance(position, 1, size);
      if (!(last.flags() & kPackedNext)) break;
      last = Tail(ring[position & 0x7fff]);
    }
    left -= slots;
    IndexPageChain& chain = out[n];
    chain.head_len = head.len();
    chain.head_id = head.id();
    chain.slots = slots;
    chain.last_id = last.id();
    chain.head_flags = head.flags();
  }
  return max_chains;
}

}  // namespace everport
