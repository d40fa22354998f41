#include "migration/dirty_log.h"

#include <gtest/gtest.h>

namespace everport {
namespace {

constexpr uint64_t kByte = 8 * 4096;  // of guest memory in a byte of the log

TEST(DirtyLogTest, ARangeIsAllBytesThatHoldABitOfIt) {
  EXPECT_EQ(LogBytesOf({0, 1}, 100), (LogBytes{0, 0}));
  EXPECT_EQ(LogBytesOf({kByte - 1, 1}, 100), (LogBytes{0, 0}));
  EXPECT_EQ(LogBytesOf({kByte - 1, 2}, 100), (LogBytes{0, 1}));
  EXPECT_EQ(LogBytesOf({3 * kByte, 2 * kByte}, 100), (LogBytes{3, 4}));
}

TEST(DirtyLogTest, ARangeIsCutAtTheLogsEnd) {
  EXPECT_EQ(LogBytesOf({98 * kByte, 5 * kByte}, 100), (LogBytes{98, 99}));
  EXPECT_EQ(LogBytesOf({100 * kByte, 1}, 100), std::nullopt);
  EXPECT_EQ(LogBytesOf({0, 1}, 0), std::nullopt);
  EXPECT_EQ(LogBytesOf({kByte, 0}, 100), std::nullopt);
}

TEST(DirtyLogTest, ARangeThatWrapsAroundEndsAtTheLastAddress) {
  EXPECT_EQ(LogBytesOf({99 * kByte, UINT64_MAX}, 100), (LogBytes{99, 99}));
  EXPECT_EQ(LogBytesOf({UINT64_MAX, UINT64_MAX}, 100), std::nullopt);
}

TEST(DirtyLogTest, ASplitRingsDeviceWritesTheUsedRingToAvailEvent) {
  EXPECT_EQ(WrittenRingParts(false, 256, 0x1000, 0x5000), (std::vector<GuestRange>{{0x5000, 4 + 8 * 256 + 2}}));
}

TEST(DirtyLogTest, APackedRingsDeviceWritesDescriptorsAndItsEventArea) {
  EXPECT_EQ(WrittenRingParts(true, 256, 0x1000, 0x5000), (std::vector<GuestRange>{{0x1000, 16 * 256}, {0x5000, 4}}));
}

}  // namespace
}  // namespace everport
