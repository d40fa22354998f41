#include "failover/health_monitor.h"

#include <gtest/gtest.h>

namespace everport {
namespace {

using State = HealthMonitor::State;

const absl::Time kStart = absl::FromUnixSeconds(1000);
absl::Time At(int64_t ms) {
  return kStart + absl::Milliseconds(ms);
}
constexpr absl::Duration kFailback = absl::Seconds(5);

HealthMonitor Trusted(int64_t ms = 0) {
  HealthMonitor monitor(kFailback);
  monitor.OnOpening();
  monitor.OnOpened(At(ms));
  return monitor;
}

TEST(HealthMonitor, ClosedIsDueAtOnceAndTrustedWhenItOpensTheFirstTime) {
  HealthMonitor monitor(kFailback);
  EXPECT_TRUE(monitor.OpeningDue(At(0)));
  monitor.OnOpening();
  EXPECT_FALSE(monitor.OpeningDue(At(0)));
  EXPECT_EQ(monitor.state(), State::kOpening);
  monitor.OnOpened(At(30));
  EXPECT_EQ(monitor.state(), State::kTrusted);
  EXPECT_EQ(monitor.next(), absl::InfiniteFuture());
}

TEST(HealthMonitor, OpeningThatFailsIsTriedAgainWithDoublingDelaysUpToTheLongest) {
  HealthMonitor monitor(kFailback);
  absl::Time now = kStart;
  for (int64_t ms : {100, 200, 400, 800, 1600, 3200, 5000, 5000}) {
    monitor.OnOpening();
    monitor.OnOpenFailed(now);
    EXPECT_EQ(monitor.next() - now, absl::Milliseconds(ms));
    EXPECT_FALSE(monitor.OpeningDue(monitor.next() - absl::Nanoseconds(1)));
    now = monitor.next();
    EXPECT_TRUE(monitor.OpeningDue(now));
  }
}

TEST(HealthMonitor, ADeviceEventMakesAClosedOneDueAtOnceAndAnOpenOneStays) {
  HealthMonitor monitor(kFailback);
  for (int64_t ms : {0, 100, 300}) monitor.OnOpenFailed(At(ms));
  EXPECT_EQ(monitor.next(), At(700));
  monitor.OnDeviceEvent(At(310));
  EXPECT_EQ(monitor.next(), At(400)) << "an attempt may announce devices itself";
  monitor.OnDeviceEvent(At(450));
  EXPECT_TRUE(monitor.OpeningDue(At(450)));
  HealthMonitor open = Trusted();
  open.OnDeviceEvent(At(3));
  EXPECT_EQ(open.state(), State::kTrusted);
}

TEST(HealthMonitor, ADeviceEventWhileItIsOpenedMakesItDueAtOnceIfThatFailsButNotTwiceInARow) {
  HealthMonitor monitor(kFailback);
  for (int64_t ms : {0, 100, 300, 700, 1500}) {
    monitor.OnOpening();
    monitor.OnOpenFailed(At(ms));
  }
  monitor.OnOpening();
  monitor.OnDeviceEvent(At(3200));
  EXPECT_EQ(monitor.state(), State::kOpening);
  monitor.OnOpenFailed(At(3300));
  EXPECT_TRUE(monitor.OpeningDue(At(3300)));
  monitor.OnOpening();
  monitor.OnDeviceEvent(At(3310));
  monitor.OnOpenFailed(At(3320));
  EXPECT_EQ(monitor.next(), At(8320)) << "the attempts themselves may announce devices";
  monitor.OnOpening();
  monitor.OnOpenFailed(At(8400));
  EXPECT_EQ(monitor.next(), At(13400)) << "no event in this one";
}

TEST(HealthMonitor, TrustedToTroubledAtOnceWhenTheLinkGoesAndItStaysOpen) {
  HealthMonitor monitor = Trusted();
  EXPECT_FALSE(monitor.OnCondition(Trouble::kLinkDown, At(10)));
  EXPECT_EQ(monitor.state(), State::kTroubled);
  EXPECT_TRUE(monitor.open());
  EXPECT_FALSE(monitor.usable());
}

TEST(HealthMonitor, TroubledToProvingWhenTheLinkIsBackAndTrustedAfterTheFailbackDelay) {
  HealthMonitor monitor = Trusted();
  monitor.OnCondition(Trouble::kLinkDown, At(10));
  monitor.OnCondition(Trouble::kNone, At(60));
  EXPECT_EQ(monitor.state(), State::kProving);
  EXPECT_TRUE(monitor.usable());
  EXPECT_EQ(monitor.next(), At(5060));
  monitor.Tick(At(5059));
  EXPECT_EQ(monitor.state(), State::kProving);
  monitor.Tick(At(5060));
  EXPECT_EQ(monitor.state(), State::kTrusted);
}

TEST(HealthMonitor, ProvingStartsAnewWithEachFailure) {
  HealthMonitor monitor = Trusted();
  for (int64_t ms = 0; ms < 2000; ms += 200) {
    monitor.OnCondition(Trouble::kLinkDown, At(ms));
    monitor.OnCondition(Trouble::kNone, At(ms + 100));
  }
  EXPECT_EQ(monitor.hold(), kFailback) << "one failure of a trusted uplink, however often it flapped while proving";
  EXPECT_EQ(monitor.next(), At(1900 + 5000));
}

TEST(HealthMonitor, TroubleThatNeedsReopeningClosesAndIsTriedAgain) {
  for (Trouble trouble : {Trouble::kStalled, Trouble::kNeedsReset, Trouble::kRemoved, Trouble::kError}) {
    HealthMonitor monitor = Trusted();
    EXPECT_TRUE(monitor.OnCondition(trouble, At(10))) << TroubleText(trouble);
    EXPECT_EQ(monitor.state(), State::kClosed);
    EXPECT_EQ(monitor.next(), At(110));
    monitor.OnOpening();
    monitor.OnOpened(At(200));
    EXPECT_EQ(monitor.state(), State::kProving);
  }
}

TEST(HealthMonitor, ALinkThatIsDownCanStillBeRemoved) {
  HealthMonitor monitor = Trusted();
  monitor.OnCondition(Trouble::kLinkDown, At(10));
  EXPECT_TRUE(monitor.OnCondition(Trouble::kRemoved, At(20)));
  EXPECT_EQ(monitor.state(), State::kClosed);
}

// Fails as soon as it is trusted, n times; the holds in seconds.
std::vector<int64_t> Holds(HealthMonitor& monitor, int n, absl::Duration trusted_for) {
  std::vector<int64_t> holds;
  absl::Time now = kStart + trusted_for;
  for (int i = 0; i < n; ++i) {
    monitor.OnCondition(Trouble::kLinkDown, now);
    monitor.OnCondition(Trouble::kNone, now);
    holds.push_back(absl::ToInt64Seconds(monitor.hold()));
    now = monitor.next();
    monitor.Tick(now);
    now += trusted_for;
  }
  return holds;
}

TEST(HealthMonitor, AFlappingUplinkProvesItselfLongerEachTime) {
  HealthMonitor monitor = Trusted();
  EXPECT_EQ(Holds(monitor, 7, absl::Milliseconds(1)), (std::vector<int64_t>{5, 10, 20, 40, 60, 60, 60}));
}

TEST(HealthMonitor, ALongCalmForgetsTheFlapping) {
  HealthMonitor monitor = Trusted();
  EXPECT_EQ(Holds(monitor, 3, absl::Seconds(50)), (std::vector<int64_t>{5, 5, 5}));
  HealthMonitor restless = Trusted();
  EXPECT_EQ(Holds(restless, 3, absl::Seconds(49)), (std::vector<int64_t>{5, 10, 20}));
}

TEST(HealthMonitor, WithoutAFailbackDelayItStillProvesItselfForAMoment) {
  HealthMonitor monitor(absl::ZeroDuration());
  monitor.OnOpened(At(0));
  monitor.OnCondition(Trouble::kLinkDown, At(1));
  monitor.OnCondition(Trouble::kNone, At(2));
  EXPECT_EQ(monitor.next(), At(2) + kShortestHold);
}

TEST(HealthMonitor, AnOpeningThatFailedFirstMustProveItself) {
  HealthMonitor monitor(kFailback);
  monitor.OnOpenFailed(At(0));
  monitor.OnOpening();
  monitor.OnOpened(At(100));
  EXPECT_EQ(monitor.state(), State::kProving);
}

TEST(HealthMonitor, ClosedWithoutFaultIsTrustedWhenItOpensAgain) {
  HealthMonitor monitor = Trusted();
  monitor.OnClosed(At(5));
  EXPECT_TRUE(monitor.OpeningDue(At(5)));
  monitor.OnOpening();
  monitor.OnOpened(At(6));
  EXPECT_EQ(monitor.state(), State::kTrusted);
}

}  // namespace
}  // namespace everport
