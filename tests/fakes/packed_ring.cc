#include "tests/fakes/packed_ring.h"

#include <atomic>

#include "tests/fakes/split_ring.h"

namespace everport::fakes {
namespace {
constexpr uint16_t kEventEnable = 0, kEventDisable = 1, kEventDesc = 2;
constexpr uint16_t kGarbageId = 0xdead;  // only the last descriptor's id counts (2.8.6), so the others hold none
}  // namespace

PackedRing::PackedRing(const RingOptions& options, GuestMemory& memory)
    : DriverRing(options, memory),
      desc_block_(memory.Allocate(size_t{16} * options.size)),
      driver_block_(memory.Allocate(4)),
      device_block_(memory.Allocate(4)) {}

uint16_t PackedRing::RawFlags(uint16_t flags) const {
  return static_cast<uint16_t>(flags | (avail_wrap_ ? kPackedAvail : kPackedUsed));
}

void PackedRing::Advance(uint16_t* position, bool* wrap, unsigned slots) const {
  unsigned next = *position + slots;
  if (next >= options_.size) {
    next -= options_.size;
    *wrap = !*wrap;
  }
  *position = static_cast<uint16_t>(next);
}

bool PackedRing::Add(std::span<const Segment> chain, uint16_t cookie, bool indirect) {
  const uint16_t slots = indirect ? 1 : static_cast<uint16_t>(chain.size());
  if (free_ < slots || free_ids_.empty()) return false;
  const uint16_t id = TakeId();
  const uint16_t head = next_avail_;
  uint16_t head_flags = 0;
  if (indirect) {
    const size_t offset = size_t{16} * options_.max_indirect * id;
    auto* table = reinterpret_cast<PackedDesc*>(indirect_.host + offset);
    for (size_t i = 0; i < chain.size(); ++i) {
      table[i] = {chain[i].gpa, chain[i].len, kGarbageId, static_cast<uint16_t>(chain[i].writable ? kDescWrite : 0)};
    }
    head_flags = RawFlags(kDescIndirect);
    descs()[head].addr = indirect_.gpa + offset;
    descs()[head].len = static_cast<uint32_t>(16 * chain.size());
    descs()[head].id = id;
    Advance(&next_avail_, &avail_wrap_, 1);
  } else {
    for (size_t i = 0; i < chain.size(); ++i) {
      const bool last = i + 1 == chain.size();
      const uint16_t flags =
          RawFlags(static_cast<uint16_t>((chain[i].writable ? kDescWrite : 0) | (last ? 0 : kDescNext)));
      PackedDesc& desc = descs()[next_avail_];
      desc.addr = chain[i].gpa;
      desc.len = chain[i].len;
      desc.id = last ? id : kGarbageId;
      if (i == 0) {
        head_flags = flags;
      } else {
        desc.flags = flags;
      }
      Advance(&next_avail_, &avail_wrap_, 1);
    }
  }
  // The head's flags make the whole chain visible, so they go last (2.8.19.1).
  __atomic_store_n(&descs()[head].flags, head_flags, __ATOMIC_RELEASE);
  added_ += slots;
  MadeAvailable(id, cookie, slots);
  return true;
}

bool PackedRing::Publish() {
  if (added_ == 0) return false;
  const uint16_t now = next_avail_, before = static_cast<uint16_t>(now - added_);
  added_ = 0;
  std::atomic_thread_fence(std::memory_order_seq_cst);  // 2.8.19.2: descriptors before the look at the event area
  const uint16_t flags = __atomic_load_n(&device_event()[1], __ATOMIC_ACQUIRE);
  if (flags != kEventDesc) return flags != kEventDisable;
  const uint16_t off_wrap = __atomic_load_n(&device_event()[0], __ATOMIC_ACQUIRE);
  uint16_t event = off_wrap & 0x7fff;
  if ((off_wrap >> 15 != 0) != avail_wrap_) event = static_cast<uint16_t>(event - options_.size);
  return static_cast<uint16_t>(now - event - 1) < static_cast<uint16_t>(now - before);
}

bool PackedRing::PopUsed(UsedBuffer* out) {
  if (ready_.empty()) {
    const PackedDesc& desc = descs()[next_used_];
    const uint16_t flags = __atomic_load_n(&desc.flags, __ATOMIC_ACQUIRE);
    const bool avail = flags & kPackedAvail, used = flags & kPackedUsed;
    if (avail != used || used != used_wrap_) return false;
    const unsigned slots = Returned(desc.id, desc.len);
    // An id out of the blue: how far to go on is anybody's guess. It stays counted, and the ring stands still.
    if (slots == 0) return false;
    Advance(&next_used_, &used_wrap_, slots);
  }
  *out = ready_.front();
  ready_.pop_front();
  return true;
}

void PackedRing::Release(uint16_t id) {
  // In-order: ids go round. Else as Linux does, the last freed first, so that ids and positions drift apart.
  if (options_.in_order) {
    free_ids_.push_back(id);
  } else {
    free_ids_.push_front(id);
  }
}

void PackedRing::WantCalls(bool want) {
  uint16_t flags = want ? kEventEnable : kEventDisable;
  if (want && options_.event_idx) {
    __atomic_store_n(&driver_event()[0], used_position(), __ATOMIC_RELEASE);
    std::atomic_thread_fence(std::memory_order_release);
    flags = kEventDesc;
  }
  __atomic_store_n(&driver_event()[1], flags, __ATOMIC_RELEASE);
  std::atomic_thread_fence(std::memory_order_seq_cst);
}

void PackedRing::RawAdd(const Segment& segment, uint16_t id, uint16_t flags) {
  PackedDesc& desc = descs()[next_avail_];
  desc.addr = segment.gpa;
  desc.len = segment.len;
  desc.id = id;
  __atomic_store_n(&desc.flags, RawFlags(static_cast<uint16_t>(flags | (segment.writable ? kDescWrite : 0))),
                   __ATOMIC_RELEASE);
  Advance(&next_avail_, &avail_wrap_, 1);
  ++added_;
}

}  // namespace everport::fakes
