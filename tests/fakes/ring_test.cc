// The books of the driver's rings against a device of a few lines that can be told to break the rules.
#include <gtest/gtest.h>

#include <array>
#include <cstring>
#include <vector>

#include "tests/fakes/packed_ring.h"
#include "tests/fakes/split_ring.h"

namespace everport::fakes {
namespace {

constexpr uint16_t kSize = 8;

// Uses the chain at position `at` of a split ring, named `id`.
void UseSplit(GuestMemory& memory, const SplitRing& ring, uint16_t at, uint32_t id, uint32_t len) {
  uint8_t* used = memory.Host(ring.device_gpa(), 6 + 8 * kSize);
  std::memcpy(used + 4 + 8 * (at % kSize), &id, 4);
  std::memcpy(used + 8 + 8 * (at % kSize), &len, 4);
  const uint16_t index = static_cast<uint16_t>(at + 1);
  std::memcpy(used + 2, &index, 2);
}

uint16_t AvailHead(GuestMemory& memory, const SplitRing& ring, uint16_t at) {
  uint16_t head;
  std::memcpy(&head, memory.Host(ring.driver_gpa(), 4 + 2 * kSize) + 4 + 2 * (at % kSize), 2);
  return head;
}

TEST(SplitRingBooks, EveryChainComesBackOnceOverManyLaps) {
  GuestMemory memory(1, 1 << 20);
  SplitRing ring({.size = kSize}, memory);
  const auto data = memory.Allocate(4096);
  const std::array<Segment, 3> chain{Segment{data.gpa, 12}, Segment{data.gpa + 100, 50}, Segment{data.gpa + 200, 1}};
  for (uint16_t lap = 0; lap < 100; ++lap) {
    ASSERT_TRUE(ring.Add(chain, lap, lap % 2 == 1));
    EXPECT_TRUE(ring.Publish());
    UseSplit(memory, ring, lap, AvailHead(memory, ring, lap), 7);
    UsedBuffer used;
    ASSERT_TRUE(ring.PopUsed(&used));
    EXPECT_EQ(used.cookie, lap);
    EXPECT_EQ(used.len, 7u);
    EXPECT_FALSE(ring.PopUsed(&used));
  }
  EXPECT_EQ(ring.account().outstanding(), 0u);
  EXPECT_EQ(ring.account().unknown, 0u);
  EXPECT_EQ(ring.free_descriptors(), kSize);
}

TEST(SplitRingBooks, AChainUsedTwiceIsCounted) {
  GuestMemory memory(1, 1 << 20);
  SplitRing ring({.size = kSize}, memory);
  const Segment one{memory.Allocate(64).gpa, 64};
  ASSERT_TRUE(ring.Add({&one, 1}, 1, false));
  ASSERT_TRUE(ring.Add({&one, 1}, 2, false));
  ring.Publish();
  const uint16_t head = AvailHead(memory, ring, 0);
  UsedBuffer used;
  UseSplit(memory, ring, 0, head, 0);
  ASSERT_TRUE(ring.PopUsed(&used));
  UseSplit(memory, ring, 1, head, 0);
  EXPECT_FALSE(ring.PopUsed(&used));
  EXPECT_EQ(ring.account().unknown, 1u);
  EXPECT_EQ(ring.account().outstanding(), 1u);
}

TEST(SplitRingBooks, AnInOrderDeviceMayNameOnlyTheLastOfABatch) {
  GuestMemory memory(1, 1 << 20);
  SplitRing ring({.size = kSize, .in_order = true}, memory);
  const Segment one{memory.Allocate(64).gpa, 64};
  for (uint16_t cookie = 0; cookie < 3; ++cookie) ASSERT_TRUE(ring.Add({&one, 1}, cookie, false));
  ring.Publish();
  // 2.7.9: one entry at the batch's first place, naming the last chain; idx moves by three.
  UseSplit(memory, ring, 0, AvailHead(memory, ring, 2), 0);
  const uint16_t index = 3;
  std::memcpy(memory.Host(ring.device_gpa(), 4) + 2, &index, 2);
  UsedBuffer used;
  for (uint16_t cookie = 0; cookie < 3; ++cookie) {
    ASSERT_TRUE(ring.PopUsed(&used));
    EXPECT_EQ(used.cookie, cookie);
  }
  EXPECT_FALSE(ring.PopUsed(&used));
  EXPECT_EQ(ring.account().outstanding(), 0u);
}

// Marks the descriptor at `at` used with `id`, at wrap counter `wrap`.
void UsePacked(PackedRing& ring, uint16_t at, uint16_t id, bool wrap) {
  PackedDesc& desc = ring.descs()[at];
  desc.id = id;
  desc.len = 0;
  desc.flags = wrap ? kPackedAvail | kPackedUsed : 0;
}

TEST(PackedRingBooks, ChainsComeBackOverTheWrap) {
  GuestMemory memory(1, 1 << 20);
  PackedRing ring({.size = kSize, .packed = true}, memory);
  const uint64_t gpa = memory.Allocate(64).gpa;
  const std::array<Segment, 3> chain{Segment{gpa, 12}, Segment{gpa + 16, 8}, Segment{gpa + 32, 8}};
  for (uint16_t lap = 0; lap < 100; ++lap) {
    const uint16_t at = ring.avail_position() & 0x7fff;
    const bool wrap = ring.avail_position() >> 15;
    ASSERT_TRUE(ring.Add(chain, lap, false));
    ring.Publish();
    EXPECT_EQ(ring.descs()[at].id, 0xdead) << "only the last descriptor names the buffer";
    UsePacked(ring, at, ring.descs()[(at + 2) % kSize].id, wrap);
    UsedBuffer used;
    ASSERT_TRUE(ring.PopUsed(&used)) << lap;
    EXPECT_EQ(used.cookie, lap);
  }
  EXPECT_EQ(ring.account().outstanding(), 0u);
  EXPECT_EQ(ring.account().unknown, 0u);
}

TEST(PackedRingBooks, ABufferUsedTwiceIsCounted) {
  GuestMemory memory(1, 1 << 20);
  PackedRing ring({.size = kSize, .packed = true}, memory);
  const Segment one{memory.Allocate(64).gpa, 64};
  ASSERT_TRUE(ring.Add({&one, 1}, 1, false));
  ASSERT_TRUE(ring.Add({&one, 1}, 2, false));
  const uint16_t id = ring.descs()[0].id;
  UsedBuffer used;
  UsePacked(ring, 0, id, true);
  ASSERT_TRUE(ring.PopUsed(&used));
  UsePacked(ring, 1, id, true);
  EXPECT_FALSE(ring.PopUsed(&used));
  EXPECT_GE(ring.account().unknown, 1u);
}

TEST(PackedRingBooks, AnInOrderDeviceMayNameOnlyTheLastOfABatch) {
  GuestMemory memory(1, 1 << 20);
  PackedRing ring({.size = kSize, .packed = true, .in_order = true}, memory);
  const Segment one{memory.Allocate(64).gpa, 64};
  for (uint16_t cookie = 0; cookie < 3; ++cookie) ASSERT_TRUE(ring.Add({&one, 1}, cookie, false));
  UsePacked(ring, 0, ring.descs()[2].id, true);
  UsedBuffer used;
  for (uint16_t cookie = 0; cookie < 3; ++cookie) {
    ASSERT_TRUE(ring.PopUsed(&used));
    EXPECT_EQ(used.cookie, cookie);
  }
  EXPECT_EQ(ring.used_position(), 0x8003);
  EXPECT_EQ(ring.account().outstanding(), 0u);
}

}  // namespace
}  // namespace everport::fakes
