#include "numa/placement.h"

#include <gtest/gtest.h>

namespace everport {
namespace {

const std::vector<PollerLoad> kTwoNodes = {{0, 0, 1}, {1, 0, 0}, {2, 1, 5}};

TEST(ChoosePoller, LocalNodeComesBeforeLeastLoaded) {
  EXPECT_EQ(ChoosePoller(kTwoNodes, 1), (PollerChoice{2, 1, "local"}));
}

TEST(ChoosePoller, OfLocalOnesTheLeastLoaded) {
  EXPECT_EQ(ChoosePoller(kTwoNodes, 0), (PollerChoice{1, 0, "local"}));
}

TEST(ChoosePoller, OfEqualsTheLowestIndexWhateverTheOrder) {
  EXPECT_EQ(ChoosePoller({{3, 0, 2}, {1, 0, 2}, {2, 0, 2}}, 0).poller, 1);
}

TEST(ChoosePoller, WithoutALocalOneSaysWhichNodeItIs) {
  EXPECT_EQ(ChoosePoller({{0, 0, 3}}, 1), (PollerChoice{0, 0, "no poller on node 1; nearest is 0"}));
}

TEST(ChoosePoller, UnknownGuestNodeGoesToTheLeastLoaded) {
  EXPECT_EQ(ChoosePoller(kTwoNodes, -1), (PollerChoice{1, 0, "guest's node not known yet"}));
}

TEST(ChoosePoller, UnknownPollerNodeIsNotCalledLocal) {
  EXPECT_EQ(ChoosePoller({{0, -1, 0}}, 0), (PollerChoice{0, -1, "poller's node not known, guest on node 0"}));
  EXPECT_EQ(ChoosePoller({{0, -1, 0}}, -1).note, "guest's node not known yet");
}

TEST(ChoosePoller, NoPollers) {
  EXPECT_EQ(ChoosePoller({}, 0), (PollerChoice{-1, -1, "there is no poller"}));
}

}  // namespace
}  // namespace everport
