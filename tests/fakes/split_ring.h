#pragma once

#include <vector>

#include "tests/fakes/driver_ring.h"

namespace everport::fakes {

// virtio 1.2, 2.7.5: one descriptor of a split ring, and of an indirect table.
struct SplitDesc {
  uint64_t addr;
  uint32_t len;
  uint16_t flags;
  uint16_t next;
};
inline constexpr uint16_t kDescNext = 1, kDescWrite = 2, kDescIndirect = 4;

class SplitRing final : public DriverRing {
 public:
  SplitRing(const RingOptions& options, GuestMemory& memory);

  bool Add(std::span<const Segment> chain, uint16_t cookie, bool indirect) override;
  bool Publish() override;
  bool PopUsed(UsedBuffer* out) override;
  void WantCalls(bool want) override;
  uint32_t initial_base() const override { return 0; }
  uint64_t desc_gpa() const override { return desc_block_.gpa; }
  uint64_t driver_gpa() const override { return avail_block_.gpa; }
  uint64_t device_gpa() const override { return used_block_.gpa; }

  // Raw access, for the hostile: the descriptor table, and heads made available without any bookkeeping.
  SplitDesc* descs() { return reinterpret_cast<SplitDesc*>(desc_block_.host); }
  void RawAvail(uint16_t head);        // writes the next avail entry and publishes it
  void RawAvailIndex(uint16_t index);  // writes avail->idx as it is
  uint16_t avail_index() const { return next_avail_; }
  uint16_t used_index() const;  // used->idx as the device wrote it

 private:
  void Release(uint16_t id) override;
  uint16_t* avail() { return reinterpret_cast<uint16_t*>(avail_block_.host); }  // flags, idx, ring[size], used_event
  const uint16_t* used() const { return reinterpret_cast<const uint16_t*>(used_block_.host); }

  GuestMemory::Block desc_block_, avail_block_, used_block_;
  std::vector<uint16_t> next_;  // our own chain links; the shared table is not trusted
  std::deque<uint16_t> free_descs_;
  uint16_t next_avail_ = 0;  // written to avail->idx at Publish
  uint16_t published_ = 0;
  uint16_t last_used_ = 0;
};

}  // namespace everport::fakes
