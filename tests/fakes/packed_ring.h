#pragma once

#include <vector>

#include "tests/fakes/driver_ring.h"

namespace everport::fakes {

// virtio 1.2, 2.8.13: one descriptor of a packed ring, and of an indirect table there.
struct PackedDesc {
  uint64_t addr;
  uint32_t len;
  uint16_t id;
  uint16_t flags;
};
inline constexpr uint16_t kPackedAvail = 1u << 7, kPackedUsed = 1u << 15;

class PackedRing final : public DriverRing {
 public:
  PackedRing(const RingOptions& options, GuestMemory& memory);

  bool Add(std::span<const Segment> chain, uint16_t cookie, bool indirect) override;
  bool Publish() override;
  bool PopUsed(UsedBuffer* out) override;
  void WantCalls(bool want) override;
  // Both positions 0, both wrap counters 1, the used half in the upper 16 bits as QEMU sends it.
  uint32_t initial_base() const override { return 0x80008000; }
  uint64_t desc_gpa() const override { return desc_block_.gpa; }
  uint64_t driver_gpa() const override { return driver_block_.gpa; }
  uint64_t device_gpa() const override { return device_block_.gpa; }

  // Raw access, for the hostile.
  PackedDesc* descs() { return reinterpret_cast<PackedDesc*>(desc_block_.host); }
  // The position (bits 0-14) with wrap counter (bit 15) of the next descriptor to be made available.
  uint16_t avail_position() const { return static_cast<uint16_t>(next_avail_ | (avail_wrap_ ? 0x8000 : 0)); }
  uint16_t used_position() const { return static_cast<uint16_t>(next_used_ | (used_wrap_ ? 0x8000 : 0)); }
  // flags of an available descriptor at the present wrap counter, or'ed with `flags`.
  uint16_t RawFlags(uint16_t flags) const;
  // Writes one descriptor at the avail position and moves on, without any bookkeeping.
  void RawAdd(const Segment& segment, uint16_t id, uint16_t flags);

 private:
  void Release(uint16_t id) override;
  uint16_t* driver_event() { return reinterpret_cast<uint16_t*>(driver_block_.host); }  // off_wrap, flags
  const uint16_t* device_event() const { return reinterpret_cast<const uint16_t*>(device_block_.host); }
  void Advance(uint16_t* position, bool* wrap, unsigned slots) const;

  GuestMemory::Block desc_block_, driver_block_, device_block_;
  uint16_t next_avail_ = 0, next_used_ = 0;
  bool avail_wrap_ = true, used_wrap_ = true;
  unsigned added_ = 0;  // descriptors since the last Publish
};

}  // namespace everport::fakes
