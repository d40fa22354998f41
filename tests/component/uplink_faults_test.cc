// Uplinks that fail while a guest sends, on real kernel devices in a network namespace of this program's own: one that
// flaps, and a port none of whose uplinks works. Needs root.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <boost/json/serialize.hpp>
#include <cstdio>

#include "absl/strings/str_cat.h"
#include "tests/component/guest_far_end.h"
#include "tests/component/guest_on_uplinks.h"

namespace everport::component {
namespace {

using fakes::SetLinkUp;
using fakes::Shell;
using ::testing::Each;
using ::testing::Field;
using ::testing::HasSubstr;

using UplinkFaultsTest = GuestOnUplinks;

// Twenty changes in two seconds: without hysteresis each would move the guest. The first does; it is moved back once
// the uplink has been well for failback_delay, which the flapping never grants. (Longer each time:
// health_monitor_test.)
TEST_F(UplinkFaultsTest, AFlappingUplinkMovesTheGuestNoMoreOftenThanTheBackOffAllows) {
  constexpr int kCycles = 10;
  constexpr size_t kSwitches = 2;
  ASSERT_NO_FATAL_FAILURE(Start({"tap", "uftap"}, 800));
  ASSERT_TRUE(
      Until([&] { return Path() == 0 && Port().at("uplinks").at(1).at("state") == "standby"; }, "both are open"));
  Hear("uftap");
  ASSERT_TRUE(ArrivesBy(0));
  const auto at_start = static_cast<ptrdiff_t>(Changes().size());
  const absl::Time start = absl::Now();
  for (int i = 0; i < kCycles; ++i) {
    const absl::Time change = absl::Now();
    SetLinkUp("uf1", false);
    const uint64_t before = arrived_.path(1).received;
    EXPECT_TRUE(Until([&] { return arrived_.path(1).received > before + kWindow; }, "traffic while the link is down"));
    RunUntil(change + absl::Milliseconds(100));
    SetLinkUp("uf1", true);
    RunUntil(change + absl::Milliseconds(200));
  }
  const double seconds = absl::ToDoubleSeconds(absl::Now() - start);
  ASSERT_TRUE(Until([&] { return Path() == 0; }, "back on the first uplink"));
  EXPECT_TRUE(ArrivesBy(0));
  std::vector<Change> switches = Changes();
  switches.erase(switches.begin(), switches.begin() + at_start);
  EXPECT_EQ(switches.size(), kSwitches);
  EXPECT_THAT(switches, Each(Field(&Change::to, testing::Ge(0)))) << "never without a path";
  EXPECT_EQ(Port().at("drops_by_cause").at("no_path"), 0);
  EXPECT_EQ(arrived_.doubled + arrived_.overtaken + arrived_.corrupted, 0u);
  std::printf(
      "%d changes in %.1f s: %zu switches; longest gap at the far ends %.1f ms; %lu frames, %lu lost with the link\n",
      2 * kCycles, seconds, switches.size(), static_cast<double>(arrived_.gap_to_ns - arrived_.gap_from_ns) / 1e6,
      sent_, arrived_.Missing(sent_));
}

TEST_F(UplinkFaultsTest, APortWithDeadUplinksAloneKeepsItsGuestSaysSoAndRecoversByItself) {
  ASSERT_NO_FATAL_FAILURE(Start({"af_packet", "ug0"}));  // which is not there yet
  ASSERT_TRUE(ArrivesBy(0));
  const int64_t replays = stack_.PortNumber("vm", "replays"), sessions = stack_.PortNumber("vm", "sessions");

  SetLinkUp("uf1", false);
  ASSERT_TRUE(Until([&] { return Path() == -1; }, "no path"));
  EXPECT_EQ(stack_.PortState("vm"), "running");
  EXPECT_EQ(Port().at("path").at("reason"), "no uplink works");
  const std::string health = boost::json::serialize(stack_.Get("/v1/health").value_or(nullptr));
  EXPECT_THAT(health,
              HasSubstr("port vm: uplink 0: af_packet uf0: the device is down or has no carrier; run: ip link set "
                        "uf0 up, and look after its cable"));
  EXPECT_THAT(health, HasSubstr("port vm: uplink 1: network device ug0 does not exist here"));
  const auto dropped = [&] { return Port().at("drops_by_cause").at("no_path").to_number<uint64_t>(); };
  const uint64_t before = dropped();
  EXPECT_TRUE(Until([&] { return dropped() > before + 100; }, "the guest's frames are taken and dropped"));

  Shell("ip link add ug0 type veth peer name ug1 && ip link set ug1 up && ip link set ug0 up");
  Hear("ug1");
  ASSERT_TRUE(Until([&] { return Path() == 1; }, "the uplink that has come is used"));
  EXPECT_TRUE(ArrivesBy(1));
  SetLinkUp("uf1", true);
  ASSERT_TRUE(Until([&] { return Path() == 0; }, "the first uplink is used again"));
  EXPECT_TRUE(ArrivesBy(0));

  EXPECT_THAT(stack_.GetText("/v1/events?follow=no").value_or(""), HasSubstr("; without a path for "));
  EXPECT_EQ(stack_.PortNumber("vm", "replays"), replays) << "the guest's session was never touched";
  EXPECT_EQ(stack_.PortNumber("vm", "sessions"), sessions);
  EXPECT_EQ(arrived_.doubled + arrived_.overtaken + arrived_.corrupted, 0u);
}

TEST_F(UplinkFaultsTest, ATapWhoseBridgeIsTakenAwayIsLeftAndComesBackWithTheBridge) {
  Shell("ip link add ufbr type bridge && ip link set ufbr up");
  stack_.AddPort({.name = "vm",
                  .uplink_kind = "tap",
                  .uplink_device = "uftap",
                  .mac = "52:54:00:00:ee:02",
                  .failback_delay_ms = 100,
                  .more_uplinks = {{"af_packet", "uf0"}},
                  .bridge = "ufbr"});
  ASSERT_NO_FATAL_FAILURE(Connect());
  ASSERT_TRUE(
      Until([&] { return Path() == 0 && Port().at("uplinks").at(1).at("state") == "standby"; }, "both are open"));
  Shell("ip link del ufbr");
  ASSERT_TRUE(Until([&] { return Path() == 1; }, "the tap leads nowhere and is left"));
  EXPECT_THAT(boost::json::serialize(Port().at("uplinks").at(0)), HasSubstr("ip link add ufbr type bridge"));
  Shell("ip link add ufbr type bridge && ip link set ufbr up");
  EXPECT_TRUE(Until([&] { return Path() == 0; }, "back on the tap in its bridge"));
  Shell("test -e /sys/class/net/uftap/master && ip link del ufbr");
}

TEST_F(UplinkFaultsTest, AfterASwitchTheGuestIsAnnouncedFiveTimesOnTheNewPath) {
  constexpr size_t kRounds = 5;                                  // QEMU's announce-rounds
  constexpr uint8_t kGuest[6] = {0x52, 0x54, 0, 0, 0xee, 0x02};  // as Start says
  ASSERT_NO_FATAL_FAILURE(Start({"tap", "uftap"}));
  ASSERT_TRUE(
      Until([&] { return Path() == 0 && Port().at("uplinks").at(1).at("state") == "standby"; }, "both are open"));
  Hear("uftap");
  auto rarp = fakes::PacketFarEnd::Open("uftap", 0x8035);
  ASSERT_TRUE(rarp.ok()) << rarp.status();
  ASSERT_TRUE(stack_.Post("/v1/ports/vm/path", "{\"index\": 1}").ok());
  std::vector<std::vector<uint8_t>> frames;
  const auto hear = [&](std::span<const uint8_t> frame) { frames.emplace_back(frame.begin(), frame.end()); };
  EXPECT_TRUE(Until(
      [&] {
        (*rarp)->Poll(hear);
        return frames.size() >= kRounds;
      },
      "announcements"));
  RunUntil(absl::Now() + absl::Milliseconds(600));  // longer than any of QEMU's intervals
  (*rarp)->Poll(hear);
  EXPECT_EQ(frames.size(), kRounds);
  for (const auto& frame : frames) {  // RFC 903: a request of the guest's for its own address, to all
    ASSERT_GE(frame.size(), 42u);
    EXPECT_TRUE(std::all_of(frame.begin(), frame.begin() + 6, [](uint8_t byte) { return byte == 0xff; }));
    EXPECT_TRUE(std::equal(kGuest, kGuest + 6, frame.begin() + 6)) << "source";
    EXPECT_EQ(frame[21], 3) << "opcode: request reverse";
    EXPECT_TRUE(std::equal(kGuest, kGuest + 6, frame.begin() + 22)) << "sender";
    EXPECT_TRUE(std::equal(kGuest, kGuest + 6, frame.begin() + 32)) << "target";
  }
}

TEST_F(UplinkFaultsTest, WhatOneSessionsFrontEndAsksToBeAnnouncedIsForgottenWithIt) {
  constexpr uint8_t kAsked[6] = {0x52, 0x54, 0, 0, 0xee, 0x77}, kConfigured[6] = {0x52, 0x54, 0, 0, 0xee, 0x02};
  ASSERT_NO_FATAL_FAILURE(Start({"tap", "uftap"}));
  ASSERT_TRUE(
      Until([&] { return Path() == 0 && Port().at("uplinks").at(1).at("state") == "standby"; }, "both are open"));
  ASSERT_TRUE(guest_->SendRarp(kAsked).ok());
  ASSERT_TRUE(Until([&] { return EventWith("guest 52:54:00:00:ee:77 announced through") >= 0; }, "asked"));
  guest_.reset();  // it would be found again at its socket
  guest_ = std::make_unique<fakes::FrontEnd>(fakes::FrontEndOptions{.socket = stack_.Socket("vm")});
  ASSERT_TRUE(guest_->Connect(absl::Seconds(10)).ok());
  ASSERT_TRUE(Until([&] { return Port().at("sessions") == 2 && Port().at("state") == "running" && Path() == 0; },
                    "another guest"));
  Hear("uftap");
  auto rarp = fakes::PacketFarEnd::Open("uftap", 0x8035);
  ASSERT_TRUE(rarp.ok()) << rarp.status();
  ASSERT_TRUE(stack_.Post("/v1/ports/vm/path", "{\"index\": 1}").ok());
  std::vector<uint8_t> first;
  ASSERT_TRUE(Until(
      [&] {
        (*rarp)->Poll([&](std::span<const uint8_t> frame) {
          if (first.empty()) first.assign(frame.begin(), frame.end());
        });
        return first.size() >= 12;
      },
      "an announcement"));
  EXPECT_TRUE(std::equal(kConfigured, kConfigured + 6, first.begin() + 6));
}

TEST_F(UplinkFaultsTest, AnUplinkChosenByHandThatFailsIsToldWhereverOneLooks) {
  ASSERT_NO_FATAL_FAILURE(Start({"tap", "uftap"}, 1000));
  ASSERT_TRUE(
      Until([&] { return Path() == 0 && Port().at("uplinks").at(1).at("state") == "standby"; }, "both are open"));
  EXPECT_EQ(Port().at("path").at("chosen"), nullptr);
  ASSERT_TRUE(stack_.Post("/v1/ports/vm/path", "{\"index\": 0}").ok());
  EXPECT_EQ(Port().at("path").at("reason"), "chosen by hand");
  SetLinkUp("uf1", false);
  ASSERT_TRUE(Until([&] { return Path() == 1; }, "it fails over all the same"));
  EXPECT_EQ(Port().at("path").at("chosen"), 0);
  EXPECT_THAT(
      std::string(Port().at("path").at("reason").as_string()),
      testing::StartsWith("chosen by hand: uplink 0, af_packet uf0, which does not work: the device is down or has no "
                          "carrier; run: ip link set uf0 up"));
  EXPECT_THAT(
      boost::json::serialize(stack_.Get("/v1/health").value_or(nullptr)),
      testing::AllOf(
          HasSubstr("port vm: uplink 0, chosen by hand: af_packet uf0: the device is down or has no carrier; run: "),
          HasSubstr("; or end the choice: everportctl path vm auto")));
  SetLinkUp("uf1", true);
  ASSERT_TRUE(Until([&] { return Path() == 0; }, "and back"));
  EXPECT_GE(EventWith("path 1 -> 0 (af_packet uf0, relay): uplink 0, chosen by hand, works; "), 0);
  EXPECT_EQ(Port().at("path").at("reason"), "chosen by hand");
}

TEST_F(UplinkFaultsTest, ADeviceMadeAnewIsSaidToBeWellWhileItHasYetToProveItself) {
  ASSERT_NO_FATAL_FAILURE(Start({"tap", "uftap"}, 2000));
  ASSERT_TRUE(
      Until([&] { return Path() == 0 && Port().at("uplinks").at(1).at("state") == "standby"; }, "both are open"));
  Shell("ip link del uf0");
  ASSERT_TRUE(Until([&] { return Path() == 1; }, "the device has gone"));
  EXPECT_THAT(std::string(Port().at("path").at("reason").as_string()),
              testing::StartsWith("fallback: af_packet uf0 does not work: "));
  Shell("ip link add uf0 type veth peer name uf1 && ip link set uf1 up && ip link set uf0 up");
  ASSERT_TRUE(Until([&] { return EventWith("uplink 0 (af_packet uf0) is well again; trusted in 2s") >= 0; }, "told"));
  EXPECT_EQ(Path(), 1) << "yet";
  EXPECT_THAT(std::string(Port().at("uplinks").at(0).at("note").as_string()), HasSubstr("works again, trusted in "));
  EXPECT_THAT(std::string(Port().at("path").at("reason").as_string()),
              HasSubstr("fallback: af_packet uf0 works again, trusted in "));
  EXPECT_TRUE(Until([&] { return Path() == 0; }, "trusted"));
  EXPECT_EQ(Port().at("uplinks").at(0).at("note"), "");
}

TEST_F(UplinkFaultsTest, APathChosenByHandIsStillTheChoiceAfterTheDaemonsDeath) {
  ASSERT_NO_FATAL_FAILURE(Start({"tap", "uftap"}));
  ASSERT_TRUE(
      Until([&] { return Path() == 0 && Port().at("uplinks").at(1).at("state") == "standby"; }, "both are open"));
  Hear("uftap");
  ASSERT_TRUE(stack_.Post("/v1/ports/vm/path", "{\"index\": 1}").ok());
  stack_.KillDaemon();
  ASSERT_TRUE(stack_.StartDaemon().ok());
  ASSERT_TRUE(
      Until([&] { return Path() >= 0 && Port().at("uplinks").at(0).at("state") == "standby"; }, "both are open"));
  EXPECT_EQ(Path(), 1);
  EXPECT_EQ(Port().at("path").at("reason"), "chosen by hand");
  ASSERT_TRUE(stack_.Post("/v1/ports/vm/path", "{\"index\": -1}").ok());
  EXPECT_TRUE(Until([&] { return Path() == 0; }, "the order of the configuration counts again"));
}

constexpr char kNobody[] = "port far has no running guest; start it, or see: everportctl port show far";

class WireFaultsTest : public GuestOnUplinks {
 protected:
  void Wire(std::vector<std::pair<std::string, std::string>> more_uplinks) {
    stack_.AddPort({.name = "vm",
                    .uplink_kind = "port",
                    .uplink_device = "far",
                    .mac = "52:54:00:00:ee:02",
                    .failback_delay_ms = 100,
                    .more_uplinks = std::move(more_uplinks)});
    stack_.AddPort({.name = "far", .uplink_kind = "port", .uplink_device = "vm", .mac = "52:54:00:00:ee:03"});
    ASSERT_NO_FATAL_FAILURE(Connect());
  }
  void StartFar() {
    far_ = std::make_unique<fakes::FrontEnd>(fakes::FrontEndOptions{.socket = stack_.Socket("far")});
    const absl::Status connected = far_->Connect(absl::Seconds(10));
    ASSERT_TRUE(connected.ok()) << connected;
    ends_.push_back(std::make_unique<GuestFarEnd>(*far_));
  }
  std::string Error() const { return std::string(Port().at("uplinks").at(0).at("error").as_string()); }

  std::unique_ptr<fakes::FrontEnd> far_;
};

TEST_F(WireFaultsTest, AWireWhoseOtherEndHasNoGuestIsLeftAndUsedAgainWhenItHas) {
  ASSERT_NO_FATAL_FAILURE(Wire({{"tap", "uftap"}}));
  ASSERT_TRUE(Until([&] { return Path() == 1; }, "the next uplink serves"));
  EXPECT_EQ(Error(), kNobody);
  EXPECT_EQ(std::string(Port().at("path").at("reason").as_string()),
            absl::StrCat("fallback: port far does not work: ", kNobody));
  Hear("uftap");
  EXPECT_TRUE(ArrivesBy(0));
  ASSERT_NO_FATAL_FAILURE(StartFar());
  ASSERT_TRUE(Until([&] { return Path() == 0; }, "the wire leads somewhere"));
  EXPECT_TRUE(ArrivesBy(1));
  EXPECT_EQ(Error(), "");

  const absl::Time stop = absl::Now();
  ASSERT_TRUE(far_->Stop().ok());
  ASSERT_TRUE(Until([&] { return Path() == 1; }, "the guest at the other end has stopped"));
  const absl::Duration noticed = absl::Now() - stop;
  EXPECT_LT(noticed, absl::Milliseconds(500));
  EXPECT_TRUE(ArrivesBy(0));
  ASSERT_TRUE(far_->Resume().ok());
  ASSERT_TRUE(Until([&] { return Path() == 0; }, "and goes on"));
  EXPECT_TRUE(ArrivesBy(1));
  std::printf("on the next uplink %.1f ms after the guest at the other end began to stop\n",
              absl::ToDoubleMilliseconds(noticed));

  stack_.KillDaemon();
  ASSERT_TRUE(stack_.StartDaemon().ok());
  ASSERT_TRUE(Until([&] { return Path() == 0; }, "the daemon is there again"));
  EXPECT_TRUE(ArrivesBy(1));
  RunUntil(absl::Now() + absl::Seconds(1.5));
  EXPECT_EQ(Path(), 0);
  EXPECT_EQ(EventWith("failed"), -1) << "both guests were running all the time";
  EXPECT_EQ(arrived_.doubled + arrived_.overtaken + arrived_.corrupted, 0u);
}

TEST_F(WireFaultsTest, AWireAloneIsUsedWhateverIsAtItsOtherEndAndSaysWhenThatIsNobody) {
  ASSERT_NO_FATAL_FAILURE(Wire({}));
  ASSERT_TRUE(Until([&] { return Error() == kNobody; }, "told"));
  EXPECT_EQ(Path(), 0);
  EXPECT_EQ(Port().at("path").at("reason"), kNobody);
  EXPECT_EQ(EventWith("failed"), -1);
  EXPECT_TRUE(Until([&] { return stack_.PortNumber("vm", "drops") > 100; }, "frames are dropped and counted"));
  ASSERT_NO_FATAL_FAILURE(StartFar());
  EXPECT_TRUE(ArrivesBy(0));
  EXPECT_EQ(Error(), "");
  EXPECT_EQ(Port().at("path").at("reason"), "first choice");
  EXPECT_EQ(EventWith("no uplink works"), -1);
}

}  // namespace
}  // namespace everport::component
