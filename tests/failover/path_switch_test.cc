#include "failover/path_switch.h"

#include <gtest/gtest.h>

namespace everport {
namespace {

using State = PathSwitch::State;
using Action = PathSwitch::Action;
using Kind = PathSwitch::Action::Kind;

const absl::Time kStart = absl::FromUnixSeconds(1000);
absl::Time At(int64_t us) {
  return kStart + absl::Microseconds(us);
}

PathSwitch On(int path) {
  PathSwitch machine;
  machine.Reset(path);
  return machine;
}

TEST(PathSwitch, WithoutASourceTheTargetIsStartedAtOnce) {
  PathSwitch machine;
  EXPECT_EQ(machine.Begin({1}, "first", true, At(0)), (Action{Kind::kStart, 1, true}));
  EXPECT_EQ(machine.Started(At(30)), (Action{Kind::kReport, 1, true}));
  EXPECT_EQ(machine.state(), State::kSteady);
  EXPECT_EQ(machine.active(), 1);
  EXPECT_EQ(machine.report().from, -1);
  EXPECT_EQ(machine.report().gap, absl::Microseconds(30));
}

TEST(PathSwitch, SteadyToQuiescingToStartingToSteady) {
  PathSwitch machine = On(0);
  EXPECT_EQ(machine.Begin({1}, "by hand", true, At(0)), (Action{Kind::kQuiesce, 0, true}));
  EXPECT_EQ(machine.state(), State::kQuiescing);
  EXPECT_EQ(machine.active(), 0) << "until the target has started";
  EXPECT_EQ(machine.Quiesced(At(10)), (Action{Kind::kStart, 1, true}));
  EXPECT_EQ(machine.state(), State::kStarting);
  EXPECT_EQ(machine.Started(At(25)), (Action{Kind::kReport, 1, true}));
  EXPECT_EQ(
      machine.report(),
      (PathSwitch::Report{
          .from = 0, .to = 1, .cause = "by hand", .refused = "", .orderly = true, .gap = absl::Microseconds(25)}));
}

TEST(PathSwitch, TheGapOfASourceThatServedMeanwhileIsTheTimeWithoutService) {
  PathSwitch machine = On(0);
  machine.Begin({1}, "by hand", true, At(0));
  machine.Quiesced(At(10));
  machine.Started(At(900), {.unserved = absl::Microseconds(3), .lost = 0});
  EXPECT_EQ(machine.report().gap, absl::Microseconds(3));
  machine.Begin({0}, "link down", false, At(1000));
  machine.Quiesced(At(1000));
  machine.Started(At(1700), {.unserved = absl::Microseconds(3), .lost = 7});
  EXPECT_EQ(machine.report().gap, absl::Microseconds(700)) << "a dead source has served nobody";
  EXPECT_EQ(machine.report().lost, 7u);
}

TEST(PathSwitch, ASourceThatWorksIsNoCandidateWhereNoneIsWanted) {
  PathSwitch machine = On(0);
  machine.Begin({-1}, "removed", true, At(0));
  EXPECT_EQ(machine.Quiesced(At(10)), (Action{Kind::kStart, -1, true}));
}

TEST(PathSwitch, APathClosedBeforeAnotherIsThereIsTheSourceOfTheNextSwitch) {
  PathSwitch machine = On(1);
  machine.Close("changed", At(100));
  EXPECT_TRUE(machine.closed());
  EXPECT_EQ(machine.active(), -1);
  EXPECT_EQ(machine.Begin({0}, "first choice", true, At(400)), (Action{Kind::kStart, 0, true}));
  machine.Started(At(500));
  EXPECT_EQ(machine.report(), (PathSwitch::Report{.from = 1,
                                                  .to = 0,
                                                  .cause = "changed",
                                                  .refused = "",
                                                  .orderly = true,
                                                  .gap = absl::Microseconds(400),
                                                  .replaced = true}));
  EXPECT_FALSE(machine.closed());
}

TEST(PathSwitch, AnotherNumberIsNoSwitchAndALastPathThatWasLostStaysSo) {
  PathSwitch machine = On(1);
  machine.Renumber(0);
  EXPECT_EQ(machine.active(), 0);
  machine.Begin({-1}, "link down", false, At(0));
  machine.Quiesced(At(0));
  machine.Started(At(0));
  machine.Renumber(-1);
  machine.Begin({0}, "works again", true, At(700));
  machine.Started(At(700));
  EXPECT_TRUE(machine.report().recovery);
  EXPECT_EQ(machine.report().gap, absl::Microseconds(700));
}

TEST(PathSwitch, ATargetThatDoesNotStartIsAnsweredByTheNextAndThenByTheSource) {
  PathSwitch machine = On(0);
  machine.Begin({2, 1}, "by hand", true, At(0));
  machine.Quiesced(At(1));
  EXPECT_EQ(machine.StartFailed("uplink 2: busy", At(2)), (Action{Kind::kStart, 1, true}));
  EXPECT_EQ(machine.StartFailed("uplink 1: gone", At(3)), (Action{Kind::kStart, 0, true}));
  EXPECT_EQ(machine.Started(At(4)).kind, Kind::kReport);
  EXPECT_EQ(machine.active(), 0);
  EXPECT_EQ(machine.report().refused, "uplink 2: busy; uplink 1: gone");
}

TEST(PathSwitch, AFailedSourceIsNoCandidate) {
  PathSwitch machine = On(0);
  EXPECT_EQ(machine.Begin({1}, "link down", false, At(0)), (Action{Kind::kQuiesce, 0, false}));
  machine.Quiesced(At(1));
  EXPECT_EQ(machine.StartFailed("uplink 1: gone", At(2)), (Action{Kind::kStart, -1, false}));
  EXPECT_EQ(machine.Started(At(3)).kind, Kind::kReport);
  EXPECT_EQ(machine.active(), -1);
}

TEST(PathSwitch, WithNoCandidateTheGuestsFramesAreDropped) {
  PathSwitch machine = On(0);
  machine.Begin({}, "link down", false, At(0));
  EXPECT_EQ(machine.Quiesced(At(1)), (Action{Kind::kStart, -1, false}));
}

TEST(PathSwitch, TheGapOfARecoveryIsTheWholeTimeWithoutAPath) {
  PathSwitch machine = On(0);
  machine.Begin({}, "link down", false, At(0));
  machine.Quiesced(At(1));
  machine.Started(At(2));
  EXPECT_FALSE(machine.report().recovery);
  machine.Begin({1}, "works again", true, At(2'000'000));
  machine.Started(At(2'000'005));
  EXPECT_EQ(machine.report().gap, absl::Microseconds(2'000'003));
  EXPECT_TRUE(machine.report().recovery);
  machine.Begin({}, "link down", false, At(3'000'000));
  machine.Quiesced(At(3'000'001));
  machine.Started(At(3'000'002));
  machine.Reset(-1);  // the guest has gone, and another comes
  machine.Begin({1}, "", true, At(9'000'000));
  machine.Started(At(9'000'004));
  EXPECT_EQ(machine.report().gap, absl::Microseconds(4));
  EXPECT_FALSE(machine.report().recovery);
}

TEST(PathSwitch, EachCandidateIsTriedOnce) {
  PathSwitch machine = On(0);
  machine.Begin({1, 0, 1}, "by hand", true, At(0));
  machine.Quiesced(At(0));
  EXPECT_EQ(machine.StartFailed("a", At(1)).path, 0);
  EXPECT_EQ(machine.StartFailed("b", At(2)).path, -1);
  EXPECT_EQ(machine.StartFailed("c", At(3)).kind, Kind::kReport) << "it ends, whatever happens";
  EXPECT_EQ(machine.active(), -1);
}

TEST(PathSwitch, WhileOneIsUnderWayNoOtherBegins) {
  PathSwitch machine = On(0);
  machine.Begin({1}, "by hand", true, At(0));
  EXPECT_EQ(machine.Begin({2}, "by hand", true, At(1)).kind, Kind::kNone);
  machine.Quiesced(At(2));
  EXPECT_EQ(machine.Begin({2}, "by hand", true, At(3)).kind, Kind::kNone);
}

TEST(PathSwitch, LateReportsAfterAResetChangeNothing) {
  PathSwitch machine = On(0);
  machine.Begin({1}, "by hand", true, At(0));
  machine.Reset(0);
  EXPECT_EQ(machine.Quiesced(At(1)).kind, Kind::kNone);
  EXPECT_EQ(machine.Started(At(1)).kind, Kind::kNone);
  EXPECT_EQ(machine.StartFailed("x", At(1)).kind, Kind::kNone);
  EXPECT_EQ(machine.active(), 0);
}

}  // namespace
}  // namespace everport
