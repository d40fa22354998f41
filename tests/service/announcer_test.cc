#include "backend/service/announcer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace everport {
namespace {

using testing::Each;
using testing::ElementsAre;
using testing::SizeIs;

constexpr MacAddress kConfigured{0x02, 0, 0, 0, 0, 1}, kAsked{0x52, 0x54, 0, 0, 0, 2};

class AnnouncerTest : public testing::Test {
 protected:
  AnnouncerTest() { announcer_->SetConfigured(kConfigured); }
  // Until nothing is due any more.
  void RunOut() {
    io_.restart();
    io_.run();
  }
  boost::asio::io_context io_;
  Announcement way_ = Announcement::kSent;
  std::vector<MacAddress> sent_;
  std::optional<Announcer> announcer_{std::in_place, io_, [this](const MacAddress& mac) {
                                        if (way_ != Announcement::kUnserved) sent_.push_back(mac);
                                        return way_;
                                      }};
};

TEST_F(AnnouncerTest, AGuestThatHasArrivedIsAnnouncedAsOftenAsQemuDoes) {
  announcer_->Served(/*moved=*/false, /*arrived=*/true);
  EXPECT_THAT(sent_, ElementsAre(kConfigured)) << "at once";
  RunOut();
  EXPECT_THAT(sent_, SizeIs(kAnnounceRounds));
  EXPECT_THAT(sent_, Each(kConfigured));
}

TEST_F(AnnouncerTest, WhatIsLeftToBeSaidByAPathThatADeviceReplacesIsNotSaid) {
  announcer_->Served(true, false);
  announcer_->Hush();
  RunOut();
  EXPECT_THAT(sent_, SizeIs(1)) << "by the path before, at once";
  announcer_->Served(true, false);
  RunOut();
  EXPECT_THAT(sent_, SizeIs(1 + kAnnounceRounds)) << "back on it";
}

TEST_F(AnnouncerTest, OneThatIsBootedIsNot) {
  announcer_->Served(false, false);
  RunOut();
  EXPECT_THAT(sent_, SizeIs(0));
}

TEST_F(AnnouncerTest, WhatTheFrontEndAsksForIsMadeOnceEachTime) {
  EXPECT_EQ(announcer_->Asked(kAsked), Announcement::kSent);
  RunOut();
  EXPECT_THAT(sent_, ElementsAre(kAsked));
}

TEST_F(AnnouncerTest, WhatIsAskedForBeforeTheRingsAreServedIsMadeThen) {
  way_ = Announcement::kUnserved;
  EXPECT_EQ(announcer_->Asked(kAsked), Announcement::kUnserved);
  EXPECT_TRUE(announcer_->due());
  way_ = Announcement::kSent;
  announcer_->Served(false, false);
  EXPECT_THAT(sent_, ElementsAre(kAsked));
  RunOut();
  sent_.clear();
  announcer_->Served(false, false);
  EXPECT_THAT(sent_, SizeIs(0)) << "that was made already";
  announcer_->Served(true, false);
  EXPECT_THAT(sent_, ElementsAre(kAsked)) << "the front-end knows the address better";
}

TEST_F(AnnouncerTest, WhatADeviceCannotSendAgainIsNotTriedAgain) {
  for (const Announcement way : {Announcement::kMade, Announcement::kNotMade}) {
    way_ = way;
    EXPECT_EQ(announcer_->Served(true, false), way) << "for the caller to tell";
    EXPECT_EQ(announcer_->Asked(kAsked), way);
    EXPECT_FALSE(announcer_->due());
    RunOut();
    EXPECT_THAT(sent_, SizeIs(2)) << "the one for each";
    sent_.clear();
  }
  EXPECT_EQ(announcer_->Served(false, false), Announcement::kUnserved) << "nothing was called for";
}

TEST_F(AnnouncerTest, AnotherSessionsGuestIsNotAnnouncedByTheLastOnesAddress) {
  announcer_->Asked(kAsked);
  announcer_->Served(false, true);
  announcer_->Forget();
  sent_.clear();
  RunOut();
  EXPECT_THAT(sent_, SizeIs(0)) << "its later rounds neither";
  announcer_->Served(true, false);
  EXPECT_THAT(sent_, ElementsAre(kConfigured));
}

TEST_F(AnnouncerTest, NothingIsSentOnceItIsGone) {
  announcer_->Served(true, false);
  sent_.clear();
  announcer_.reset();
  RunOut();
  EXPECT_THAT(sent_, SizeIs(0));
}

TEST(RarpTest, IsARequestForTheGuestsOwnAddressToAll) {
  const std::vector<uint8_t> frame = MakeRarp(kAsked);
  ASSERT_EQ(frame.size(), 60u);
  const std::vector<uint8_t> start = {0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x52, 0x54, 0,    0,    0, 2, 0x80, 0x35,
                                      0,    1,    8,    0,    6,    4,    0,    3,    0x52, 0x54, 0, 0, 0,    2,
                                      0,    0,    0,    0,    0x52, 0x54, 0,    0,    0,    2,    0, 0, 0,    0};
  EXPECT_TRUE(std::equal(start.begin(), start.end(), frame.begin()));
}

}  // namespace
}  // namespace everport
