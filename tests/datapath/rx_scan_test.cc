#include "backend/datapath/rx_scan.h"

#include <gtest/gtest.h>
#define VIRTIO_RING_NO_LEGACY  // its inline functions are C
#include <linux/virtio_ring.h>

#include <memory>
#include <vector>

namespace everport {
namespace {

constexpr uint64_t kTable = 0x9000;  // guest physical, of the one indirect table

class RxScanTest : public testing::Test {
 protected:
  RxScanTest() : avail_(std::make_unique<uint8_t[]>(sizeof(vring_avail) + 2 * kSize)) {}
  static constexpr uint16_t kSize = 8;
  vring_avail& avail() { return *reinterpret_cast<vring_avail*>(avail_.get()); }
  void MakeAvailable(uint16_t head) { avail().ring[avail().idx++ % kSize] = head; }
  const RxScan& Split(uint16_t position = 0, unsigned most = 256) {
    scan_ = {};
    ScanSplit(desc_.data(), &avail(), kSize, position, most, reach_, scan_, ranges_.data());
    return scan_;
  }
  void ExpectRanges(const std::vector<std::pair<uint64_t, uint64_t>>& expected) {
    ASSERT_EQ(scan_.ranges, expected.size());
    for (size_t i = 0; i < expected.size(); ++i) {
      EXPECT_EQ(ranges_[i].guest_phys_addr, expected[i].first);
      EXPECT_EQ(ranges_[i].bytes, expected[i].second);
    }
  }

  std::vector<vring_desc> desc_ = std::vector<vring_desc>(kSize);
  std::unique_ptr<uint8_t[]> avail_;
  std::vector<uint8_t> table_ = std::vector<uint8_t>(64 * 16);
  std::vector<IndexPageRange> ranges_ = std::vector<IndexPageRange>(kIndexPageRanges);
  RxScan scan_;
  std::function<const void*(uint64_t, uint64_t)> reach_ = [this](uint64_t gpa, uint64_t bytes) -> const void* {
    return gpa == kTable && bytes <= table_.size() ? table_.data() : nullptr;
  };
};

TEST_F(RxScanTest, SplitChainsGiveTheirBuffersAndTheirRoom) {
  desc_[0] = {0x1000, 100, VRING_DESC_F_WRITE | VRING_DESC_F_NEXT, 5};
  desc_[5] = {0x2000, 200, VRING_DESC_F_WRITE, 0};
  desc_[1] = {0x3000, 300, VRING_DESC_F_WRITE, 0};
  MakeAvailable(0);
  MakeAvailable(1);
  EXPECT_EQ(Split().chains, 2u);
  ExpectRanges({{0x1000, 100}, {0x2000, 200}, {0x3000, 300}});
  EXPECT_EQ(scan_.room[0], 300);
  EXPECT_EQ(scan_.room[1], 300);
  EXPECT_EQ(Split(0, 1).chains, 1u);
  EXPECT_EQ(Split(1).chains, 1u);
  ExpectRanges({{0x3000, 300}});
}

TEST_F(RxScanTest, ABufferIsAsLongAsAFrameAtMost) {
  desc_[0] = {0x1000, 0xffffffff, VRING_DESC_F_WRITE, 0};
  MakeAvailable(0);
  EXPECT_EQ(Split().room[0], 0xffffffff);
  ExpectRanges({{0x1000, 65536 + 12}});
}

TEST_F(RxScanTest, IndirectTablesAreFollowed) {
  auto* table = reinterpret_cast<vring_desc*>(table_.data());
  table[0] = {0x1000, 10, VRING_DESC_F_WRITE | VRING_DESC_F_NEXT, 2};
  table[2] = {0x2000, 20, VRING_DESC_F_WRITE, 0};
  desc_[3] = {kTable, 3 * 16, VRING_DESC_F_INDIRECT, 0};
  MakeAvailable(3);
  EXPECT_EQ(Split().chains, 1u);
  ExpectRanges({{0x1000, 10}, {0x2000, 20}});
}

TEST_F(RxScanTest, AChainThatIsNoneEndsTheScanAfterThoseBeforeIt) {
  desc_[0] = {0x1000, 100, VRING_DESC_F_WRITE, 0};
  MakeAvailable(0);
  const auto with = [this](vring_desc bad, uint16_t head) {
    avail().idx = 1;
    if (head < kSize) desc_[head] = bad;
    MakeAvailable(head);
    return Split().chains;
  };
  EXPECT_EQ(with({0x1000, 1, VRING_DESC_F_NEXT, 2}, 2), 1u);           // itself
  EXPECT_EQ(with({0x1000, 1, VRING_DESC_F_NEXT, kSize}, 2), 1u);       // outside the ring
  EXPECT_EQ(with({0x7000, 16, VRING_DESC_F_INDIRECT, 0}, 2), 1u);      // outside the guest's memory
  EXPECT_EQ(with({kTable, 9 * 16, VRING_DESC_F_INDIRECT, 0}, 2), 1u);  // longer than the ring
  EXPECT_EQ(with({kTable, 15, VRING_DESC_F_INDIRECT, 0}, 2), 1u);      // no entry at all
  EXPECT_EQ(with({}, kSize), 1u);                                      // no descriptor of the ring
  ExpectRanges({{0x1000, 100}});
}

TEST_F(RxScanTest, AWildAvailIndexIsARingfulAtMost) {
  avail().idx = 0x8000;
  EXPECT_EQ(Split().chains, kSize);
}

TEST_F(RxScanTest, PackedChainsGiveTheirBuffers) {
  std::vector<PackedDesc> ring(kSize);
  ring[7] = {0x1000, 100, 0, kPackedNext | kPackedWrite};
  ring[0] = {0x2000, 200, 0, kPackedWrite};
  auto* table = reinterpret_cast<PackedDesc*>(table_.data());
  table[0] = {0x3000, 30, 0, 0};
  table[1] = {0x4000, 40, 0, 0};
  ring[1] = {kTable, 32, 0, kPackedIndirect};
  const IndexPageChain chains[] = {
      {.head_len = 100, .head_id = 0, .slots = 2, .last_id = 0, .head_flags = kPackedNext},
      {.head_len = 32, .head_id = 0, .slots = 1, .last_id = 0, .head_flags = kPackedIndirect}};
  ScanPacked(ring.data(), kSize, 7, chains, 2, reach_, scan_, ranges_.data());
  EXPECT_EQ(scan_.chains, 2u);
  ExpectRanges({{0x1000, 100}, {0x2000, 200}, {0x3000, 30}, {0x4000, 40}});
  EXPECT_EQ(scan_.room[1], 70);
}

TEST_F(RxScanTest, AChainWhoseBuffersFindNoRoomOnTheIndexPageIsLeft) {
  std::vector<IndexPageRange> buffers(300, {0x1000, 1});
  EXPECT_TRUE(scan_.Add(buffers.data(), 300, ranges_.data()));
  EXPECT_FALSE(scan_.Add(buffers.data(), 300, ranges_.data()));
  EXPECT_EQ(scan_.chains, 1u);
  EXPECT_EQ(scan_.ranges, 300u);
}

}  // namespace
}  // namespace everport
