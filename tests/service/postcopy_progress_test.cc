// A guest's arrivals by post-copy as the operator hears of them, on a clock of the test's own.
#include "backend/service/postcopy_progress.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace everport {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::StartsWith;

class PostcopyProgressTest : public testing::Test {
 protected:
  // The event that it makes; "-": none. A warning has a "!" before it.
  std::string Take(SessionState state, Postcopy postcopy, const std::string& reason = "") {
    const auto told = progress_.Take({"vm1", state, reason, postcopy}, now_);
    return told ? (told->warning ? "!" : "") + told->message : "-";
  }
  void Pass(double seconds) { now_ += absl::Seconds(seconds); }
  PostcopyView View() const { return progress_.View(now_); }

  absl::Time now_ = absl::FromUnixSeconds(1000);
  PostcopyProgress progress_;
};

TEST_F(PostcopyProgressTest, TheWholeWay) {
  EXPECT_EQ(Take(SessionState::kConnected, Postcopy::kNone), "-");
  EXPECT_EQ(View().phase, "none");
  EXPECT_EQ(Take(SessionState::kConnected, Postcopy::kAdvised), "the guest may arrive by post-copy");
  EXPECT_EQ(View().phase, "advised");
  Pass(7);  // which is not post-copy's
  EXPECT_THAT(Take(SessionState::kConnected, Postcopy::kListening), StartsWith("the guest arrives by post-copy"));
  EXPECT_EQ(Take(SessionState::kRunning, Postcopy::kListening), "-");
  Pass(2.5);
  EXPECT_EQ(View().phase, "listening");
  EXPECT_DOUBLE_EQ(View().seconds, 2.5);
  EXPECT_DOUBLE_EQ(View().total_seconds, 2.5);
  EXPECT_EQ(View().completed, 0u);
  Pass(0.5);
  EXPECT_EQ(Take(SessionState::kRunning, Postcopy::kNone),
            "post-copy has ended: all the guest's memory is here, after 3.0 s");
  Pass(100);
  EXPECT_EQ(View().phase, "none");
  EXPECT_EQ(View().completed, 1u);
  EXPECT_EQ(View().broken_off, 0u);
  EXPECT_DOUBLE_EQ(View().seconds, 3);
}

TEST_F(PostcopyProgressTest, TimesAddUp) {
  for (const double seconds : {1.0, 2.0}) {
    Take(SessionState::kConnected, Postcopy::kAdvised);
    Take(SessionState::kRunning, Postcopy::kListening);
    Pass(seconds);
    Take(SessionState::kRunning, Postcopy::kNone);
    Pass(50);
  }
  EXPECT_DOUBLE_EQ(View().total_seconds, 3);
  EXPECT_DOUBLE_EQ(View().seconds, 2);
  EXPECT_EQ(View().completed, 2u);
}

TEST_F(PostcopyProgressTest, AFrontEndThatGoesMeanwhileBreaksItOff) {
  Take(SessionState::kConnected, Postcopy::kAdvised);
  Take(SessionState::kRunning, Postcopy::kListening);
  Pass(1.5);
  EXPECT_EQ(Take(SessionState::kWaiting, Postcopy::kNone, "QEMU closed the connection"),
            "!post-copy was broken off after 1.5 s: QEMU closed the connection");
  EXPECT_EQ(View().completed, 0u);
  EXPECT_EQ(View().broken_off, 1u);
  EXPECT_DOUBLE_EQ(View().total_seconds, 1.5);
}

TEST_F(PostcopyProgressTest, AdviceThatNothingComesOf) {
  Take(SessionState::kConnected, Postcopy::kAdvised);
  EXPECT_EQ(Take(SessionState::kConnected, Postcopy::kNone), "post-copy was not begun");
  EXPECT_EQ(View().completed + View().broken_off, 0u);
  EXPECT_DOUBLE_EQ(View().total_seconds, 0);
}

TEST_F(PostcopyProgressTest, ADaemonThatComesInTheMiddleSaysThatTheGuestWaits) {
  Take(SessionState::kWaiting, Postcopy::kNone);  // the keeper was not reached yet
  EXPECT_THAT(Take(SessionState::kRunning, Postcopy::kListening),
              AllOf(StartsWith("!"), HasSubstr("since before this daemon")));
}

TEST_F(PostcopyProgressTest, PagesMayMissUntilTheGuestRunsWithoutPostcopy) {
  EXPECT_TRUE(progress_.PagesMayMiss());
  Take(SessionState::kConnected, Postcopy::kNone);
  EXPECT_TRUE(progress_.PagesMayMiss());
  Take(SessionState::kRunning, Postcopy::kListening);
  EXPECT_TRUE(progress_.PagesMayMiss());
  Take(SessionState::kRunning, Postcopy::kNone);
  EXPECT_FALSE(progress_.PagesMayMiss());
  Take(SessionState::kWaiting, Postcopy::kNone);
  EXPECT_TRUE(progress_.PagesMayMiss());
}

}  // namespace
}  // namespace everport
