#include "failover/uplink_choice.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace everport {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

const absl::Time kStart = absl::FromUnixSeconds(1000);
absl::Time At(int64_t ms) {
  return kStart + absl::Milliseconds(ms);
}

UplinkHealth Untried() {
  return {};
}
UplinkHealth Working() {
  return AfterSuccess();
}
UplinkHealth FailedAt(int64_t ms) {
  return AfterFailure(Working(), At(ms));
}

TEST(UplinkHealth, WorkingToFailedIsRetriedAfterTheFirstDelay) {
  const UplinkHealth failed = AfterFailure(Working(), At(7));
  EXPECT_EQ(failed.state, UplinkState::kFailed);
  EXPECT_EQ(failed.failed_since, At(7));
  EXPECT_EQ(failed.retry_at, At(107));
}

TEST(UplinkHealth, UntriedToFailedIsRetriedAfterTheFirstDelay) {
  EXPECT_EQ(AfterFailure(Untried(), At(0)).retry_at, At(100));
}

TEST(UplinkHealth, FailedToFailedDoublesTheDelayUpToTheLongest) {
  UplinkHealth health = Working();
  std::vector<int64_t> delays;
  absl::Time now = kStart;
  for (int i = 0; i < 9; ++i) {
    health = AfterFailure(health, now);
    delays.push_back(absl::ToInt64Milliseconds(health.retry_at - now));
    now = health.retry_at;
  }
  EXPECT_THAT(delays, ElementsAre(100, 200, 400, 800, 1600, 3200, 5000, 5000, 5000));
  EXPECT_EQ(health.failed_since, kStart) << "the first failure in a row";
}

TEST(UplinkHealth, FailedToWorkingForgetsTheFailuresBefore) {
  const UplinkHealth failed = AfterFailure(FailedAt(0), At(100));
  EXPECT_NE(failed, FailedAt(0));
  const UplinkHealth working = AfterSuccess();
  EXPECT_EQ(working.state, UplinkState::kWorking);
  EXPECT_EQ(AfterFailure(working, At(9000)).retry_at, At(9100));
}

TEST(ChooseUplink, AtTheStartTheFirstIsTried) {
  const UplinkDecision decision = ChooseUplink({Untried(), Untried()}, kStart);
  EXPECT_EQ(decision.use, 0u);
  EXPECT_THAT(decision.probe, IsEmpty());
  EXPECT_EQ(decision.next_retry, absl::InfiniteFuture());
}

TEST(ChooseUplink, FirstFailsTheSecondIsUsedAtOnceAndTheFirstWaits) {
  const UplinkDecision decision = ChooseUplink({FailedAt(0), Untried()}, At(0));
  EXPECT_EQ(decision.use, 1u);
  EXPECT_THAT(decision.probe, IsEmpty());
  EXPECT_EQ(decision.next_retry, At(100));
}

TEST(ChooseUplink, FailedFirstComesDueItIsProbedAndTheSecondKept) {
  EXPECT_THAT(ChooseUplink({FailedAt(0), Working()}, At(99)).probe, IsEmpty());
  const UplinkDecision decision = ChooseUplink({FailedAt(0), Working()}, At(100));
  EXPECT_EQ(decision.use, 1u);
  EXPECT_THAT(decision.probe, ElementsAre(0));
}

TEST(ChooseUplink, FailedFirstWorksAgainItIsUsed) {
  EXPECT_EQ(ChooseUplink({Working(), Working()}, At(100)).use, 0u);
}

TEST(ChooseUplink, WorkingFirstIsKeptWhateverIsBehindIt) {
  const UplinkDecision decision = ChooseUplink({Working(), FailedAt(0)}, At(100));
  EXPECT_EQ(decision.use, 0u);
  EXPECT_THAT(decision.probe, IsEmpty());
  EXPECT_EQ(decision.next_retry, absl::InfiniteFuture()) << "a less preferred one is tried when it is needed";
}

TEST(ChooseUplink, AllFailedNoneDueNothingIsUsedUntilTheEarliestRetry) {
  const UplinkDecision decision = ChooseUplink({FailedAt(50), FailedAt(20)}, At(60));
  EXPECT_EQ(decision.use, std::nullopt);
  EXPECT_EQ(decision.next_retry, At(120));
}

TEST(ChooseUplink, AllFailedTheFirstThatIsDueIsTried) {
  EXPECT_EQ(ChooseUplink({FailedAt(50), FailedAt(20)}, At(120)).use, 1u);
  const UplinkDecision both = ChooseUplink({FailedAt(0), FailedAt(0)}, At(100));
  EXPECT_EQ(both.use, 0u);
  EXPECT_THAT(both.probe, IsEmpty());
}

TEST(ChooseUplink, SecondIsLostWhileTheFirstWaitsTheThirdIsUsed) {
  const UplinkDecision decision = ChooseUplink({FailedAt(0), FailedAt(10), Untried()}, At(10));
  EXPECT_EQ(decision.use, 2u);
  EXPECT_EQ(decision.next_retry, At(100));
}

TEST(ChooseUplink, NoUplinksNothingIsUsed) {
  EXPECT_EQ(ChooseUplink({}, kStart), UplinkDecision{});
}

}  // namespace
}  // namespace everport
