#include "backend/service/ring_progress.h"

#include <gtest/gtest.h>
#include <sys/eventfd.h>

#include <utility>

namespace everport {
namespace {

class RingProgressTest : public testing::Test {
 protected:
  RingProgressTest() {
    rings_.rings.resize(2);
    GuestRings::Ring& ring = rings_.rings[1];
    ring.enabled = true;
    ring.avail_idx = &avail_;
    ring.used_idx = &used_;
    ring.kick.reset(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  }
  uint64_t StalledAt(int ms) { return progress_.StalledMs(rings_, start_ + absl::Milliseconds(ms)); }
  uint64_t Kicks() {
    eventfd_t kicks = 0;
    return eventfd_read(rings_.rings[1].kick.get(), &kicks) == 0 ? kicks : 0;
  }
  const absl::Time start_ = absl::UnixEpoch();
  uint16_t avail_ = 0, used_ = 0;
  GuestRings rings_;
  RingProgress progress_;
};

TEST_F(RingProgressTest, NothingToDoIsNoStall) {
  for (const int ms : {0, 100, 200}) EXPECT_EQ(StalledAt(ms), 0u);
  EXPECT_EQ(Kicks(), 0u);
}

TEST_F(RingProgressTest, TimeWithoutProgressCountsFromWhenItIsSeen) {
  avail_ = 3;
  EXPECT_EQ(StalledAt(0), 0u);
  EXPECT_EQ(StalledAt(10), 10u);
  used_ = 1;
  EXPECT_EQ(StalledAt(20), 0u);
  EXPECT_EQ(StalledAt(30), 0u);
  EXPECT_EQ(StalledAt(60), 30u);
  used_ = 3;
  EXPECT_EQ(StalledAt(70), 0u);
}

TEST_F(RingProgressTest, MovedOnceTheDeviceHasFinishedSomethingHere) {
  used_ = 7;
  avail_ = 9;
  StalledAt(0);
  StalledAt(10);
  EXPECT_FALSE(progress_.moved()) << "what was finished before does not count";
  used_ = 8;
  StalledAt(20);
  EXPECT_TRUE(progress_.moved());
}

TEST_F(RingProgressTest, TheDeviceIsKickedOnceBeforeItCountsAsStalled) {
  avail_ = 3;
  StalledAt(0);
  StalledAt(14);
  EXPECT_EQ(Kicks(), 0u);
  StalledAt(15);
  StalledAt(40);
  EXPECT_EQ(Kicks(), 1u);
  used_ = 1;  // it had not been told
  StalledAt(50);
  StalledAt(60);
  StalledAt(90);
  EXPECT_EQ(Kicks(), 1u) << "each time anew";
}

TEST_F(RingProgressTest, RingsTowardsTheGuestMayStandStill) {
  rings_.rings[0] = std::exchange(rings_.rings[1], {});
  avail_ = 3;
  StalledAt(0);
  EXPECT_EQ(StalledAt(100), 0u);
}

}  // namespace
}  // namespace everport
