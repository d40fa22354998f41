#include "failover/uplink_choice.h"

#include <gtest/gtest.h>

namespace everport {
namespace {

using enum HealthMonitor::State;
using States = std::vector<HealthMonitor::State>;

TEST(ChooseUplink, TheFirstTrustedOne) {
  EXPECT_EQ(ChooseUplink({kTrusted, kTrusted}, -1, -1), 0);
  EXPECT_EQ(ChooseUplink({kClosed, kTrusted, kTrusted}, -1, -1), 1);
  EXPECT_EQ(ChooseUplink({kOpening, kTrusted}, -1, -1), 1) << "the slow one is not waited for";
}

TEST(ChooseUplink, NoneWhenNoneIsUsable) {
  EXPECT_EQ(ChooseUplink({}, -1, -1), -1);
  EXPECT_EQ(ChooseUplink({kClosed, kOpening, kTroubled}, 2, -1), -1);
}

TEST(ChooseUplink, AnActiveOneInTroubleIsGivenUpAtOnce) {
  EXPECT_EQ(ChooseUplink({kTroubled, kTrusted}, 0, -1), 1);
  EXPECT_EQ(ChooseUplink({kClosed, kProving}, 0, -1), 1) << "better one that proves itself than none";
}

TEST(ChooseUplink, BackToThePreferredOneOnlyWhenItIsTrusted) {
  EXPECT_EQ(ChooseUplink({kProving, kTrusted}, 1, -1), 1);
  EXPECT_EQ(ChooseUplink({kTrusted, kTrusted}, 1, -1), 0);
}

TEST(ChooseUplink, AnActiveOneThatProvesItselfStaysBeforeLessPreferredOnes) {
  EXPECT_EQ(ChooseUplink({kProving, kTrusted}, 0, -1), 0);
}

TEST(ChooseUplink, ATrustedOneBeforeOneThatProvesItself) {
  EXPECT_EQ(ChooseUplink({kProving, kTroubled, kTrusted}, 1, -1), 2);
}

TEST(ChooseUplink, TheOneChosenByHandIsPreferredToAll) {
  EXPECT_EQ(ChooseUplink({kTrusted, kTrusted}, 0, 1), 1);
  EXPECT_EQ(ChooseUplink({kTrusted, kTroubled}, 1, 1), 0) << "it fails over like any other";
  EXPECT_EQ(ChooseUplink({kTrusted, kProving}, 0, 1), 0) << "and comes back when it is trusted";
  EXPECT_EQ(ChooseUplink({kTrusted, kProving}, 1, 1), 1) << "by hand it may be in use before";
  EXPECT_EQ(ChooseUplink({kTrusted}, 0, 7), 0);
}

}  // namespace
}  // namespace everport
