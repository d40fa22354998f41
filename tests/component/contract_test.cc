// Own profiles: keeper and daemon know them from the same file, and a guest is offered the same bits whichever of the
// two answers, whatever uplink is there; what a guest was offered stays.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>

#include <boost/json/serialize.hpp>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "migration/contract_document.h"
#include "tests/component/stack.h"
#include "tests/fakes/front_end.h"

namespace everport::component {
namespace {

using fakes::FrontEnd;

constexpr char kMine[] =
    "[[contract]]\nname = \"mine-1\"\nwithout = [\"VIRTIO_F_RING_PACKED\", \"VIRTIO_F_IN_ORDER\"]\nmax_mtu = 4000\n";

FeatureContract Mine() {
  FeatureContract mine = *FindContract("everport-1");
  mine.name = "mine-1";
  mine.features &= ~(uint64_t{1} << kRingPacked | uint64_t{1} << kInOrder);
  mine.max_mtu = 4000;
  return mine;
}

class ContractTest : public testing::Test {
 protected:
  void SetUp() override {
    stack_.options().tables = kMine;
    stack_.AddPort({.name = "p", .uplink_kind = "vdev", .uplink_device = "net_null0", .contract = "mine-1"});
  }
  void Reload() {
    stack_.WriteConfig();
    stack_.daemon().Signal(SIGHUP);
  }
  static bool Eventually(const std::function<bool()>& done) {
    for (const absl::Time end = absl::Now() + absl::Seconds(20); absl::Now() < end;) {
      if (done()) return true;
      absl::SleepFor(absl::Milliseconds(10));
    }
    return done();
  }
  void Connect(FrontEnd& guest) {
    guest.Listen();
    ASSERT_OK(guest.Connect(absl::Seconds(20)));
  }

  Stack stack_;
};

TEST_F(ContractTest, TheKeeperOffersTheProfileBitForBit) {
  ASSERT_OK(stack_.Start());
  FrontEnd guest({.socket = stack_.Socket("p")});
  Connect(guest);
  EXPECT_EQ(guest.offered_features(), Mine().features);
  EXPECT_EQ(guest.offered_protocol_features(), Mine().protocol_features);
  ASSERT_TRUE(Eventually([&] { return stack_.PortState("p") == "running"; })) << stack_.Logs();
  const auto document = stack_.Get("/v1/contract?name=mine-1");
  ASSERT_OK(document.status());
  EXPECT_EQ(*ContractFromJson(*document, ""), Mine());
  // What it needs elsewhere is what it has: the guest's rings and what it negotiated.
  const auto port = stack_.Get("/v1/ports/p");
  ASSERT_OK(port.status());
  const auto needs = NeedsFromJson(port->at("needs"), "needs");
  ASSERT_OK(needs.status());
  EXPECT_EQ(needs->features, guest.features());
  EXPECT_EQ(needs->ring_size, guest.ring(0).size());
}

TEST_F(ContractTest, TheDaemonOffersTheSameStraightToQemu) {
  stack_.options().keeper = false;
  ASSERT_OK(stack_.Start());
  FrontEnd guest({.socket = stack_.Socket("p")});
  Connect(guest);
  EXPECT_EQ(guest.offered_features(), Mine().features);
}

// The keeper has read the file once; what the daemon learns later comes with its ports.
TEST_F(ContractTest, AProfileAddedByReloadServesPortsOfFileAndApi) {
  ASSERT_OK(stack_.Start());
  stack_.options().tables =
      absl::StrCat(kMine, "[[contract]]\nname = \"late-1\"\nbase = \"minimal-1\"\nmax_mtu = 1400\n");
  stack_.AddPort({.name = "q", .uplink_kind = "vdev", .uplink_device = "net_null1", .mtu = 1400, .contract = "late-1"});
  Reload();
  FrontEnd q({.socket = stack_.Socket("q")}), r({.socket = stack_.Socket("r")});
  Connect(q);
  EXPECT_EQ(q.offered_features(), FindContract("minimal-1")->features);
  ASSERT_OK(stack_.Post("/v1/ports",
                        absl::StrCat(R"({"name":"r","contract":"late-1","mtu":1400,"socket":")", stack_.Socket("r"),
                                     R"(","uplink":[{"kind":"vdev","device":"net_null2"}]})")));
  Connect(r);
  EXPECT_EQ(r.offered_features(), FindContract("minimal-1")->features);
  // Kept with the daemon's state.
  stack_.KillDaemon();
  ASSERT_OK(stack_.StartDaemon());
  EXPECT_TRUE(Eventually([&] { return stack_.PortState("r") == "running"; })) << stack_.Logs();
  EXPECT_FALSE(r.socket().closed());
}

// The file was written anew while no daemon was there to refuse it.
TEST_F(ContractTest, ASavedPortWhoseProfileHasGoneIsLeftOutAloneUntilItIsBack) {
  ASSERT_OK(stack_.Start());
  const auto add = [&](const std::string& name, const std::string& contract, int device) {
    return stack_.Post(
        "/v1/ports",
        absl::StrCat(R"({"name":")", name, R"(","contract":")", contract, R"(","socket":")", stack_.Socket(name),
                     R"(","uplink":[{"kind":"vdev","device":"net_null)", device, R"("}]})"));
  };
  ASSERT_OK(add("r", "mine-1", 1));
  ASSERT_OK(add("gone", "mine-1", 2));
  ASSERT_OK(add("s", "everport-1", 3));
  FrontEnd r({.socket = stack_.Socket("r")}), s({.socket = stack_.Socket("s")});
  Connect(r);
  Connect(s);
  ASSERT_TRUE(Eventually([&] { return stack_.PortState("r") == "running"; })) << stack_.Logs();
  stack_.KillDaemon();
  stack_.RemovePort("p");
  stack_.options().tables = "";
  stack_.WriteConfig();
  ASSERT_OK(stack_.StartDaemon());
  EXPECT_TRUE(Eventually([&] { return stack_.PortState("s") == "running"; })) << stack_.Logs();
  EXPECT_FALSE(stack_.Get("/v1/ports/r").ok());
  const auto health = stack_.Get("/v1/health");
  ASSERT_OK(health.status());
  EXPECT_THAT(boost::json::serialize(*health),
              testing::HasSubstr("port r: saved, and left out: contract: \\\"mine-1\\\" is not a feature contract"));
  EXPECT_THAT(stack_.GetText("/v1/events?follow=no").value_or(""), testing::HasSubstr("saved port left out: contract"));
  EXPECT_THAT(std::string(add("r", "everport-1", 1).message()),
              testing::HasSubstr("r: is saved already, and left out"));
  EXPECT_TRUE(stack_.daemon().WaitLog("left out, but its guest's session is kept", absl::Seconds(20))) << stack_.Logs();
  ASSERT_OK(stack_.Delete("/v1/ports/gone"));
  ASSERT_OK(add("t", "everport-1", 4));  // which writes the file
  EXPECT_FALSE(r.socket().closed());

  stack_.options().tables = kMine;
  Reload();
  EXPECT_TRUE(Eventually([&] { return stack_.PortState("r") == "running"; })) << stack_.Logs();
  EXPECT_FALSE(r.socket().closed());
  EXPECT_FALSE(stack_.Get("/v1/ports/gone").ok());
  EXPECT_EQ(boost::json::serialize(*stack_.Get("/v1/health")).find("left out"), std::string::npos);
  stack_.KillDaemon();
  ASSERT_OK(stack_.StartDaemon());
  EXPECT_TRUE(Eventually([&] { return stack_.PortState("r") == "running" && stack_.PortState("s") == "running"; }))
      << stack_.Logs();
}

TEST_F(ContractTest, AChangeUnderAPortIsRefusedAndItsGuestGoesOn) {
  ASSERT_OK(stack_.Start());
  FrontEnd guest({.socket = stack_.Socket("p")});
  Connect(guest);
  stack_.options().tables = "[[contract]]\nname = \"mine-1\"\n";
  Reload();
  ASSERT_TRUE(stack_.daemon().WaitLog("contract mine-1 is another than before, and port p has it", absl::Seconds(20)))
      << stack_.Logs();
  EXPECT_FALSE(guest.socket().closed());
  EXPECT_EQ(stack_.PortNumber("p", "sessions"), 1);
  EXPECT_EQ(*ContractFromJson(*stack_.Get("/v1/contract?name=mine-1"), ""), Mine());
}

// Nobody saw it change: the daemon was not there. The keeper was.
TEST_F(ContractTest, AChangeWhileTheDaemonIsAwayIsRefusedByTheKeeper) {
  ASSERT_OK(stack_.Start());
  FrontEnd guest({.socket = stack_.Socket("p")});
  Connect(guest);
  stack_.KillDaemon();
  stack_.options().tables = "[[contract]]\nname = \"mine-1\"\n";
  stack_.WriteConfig();
  ASSERT_OK(stack_.StartDaemon());
  ASSERT_TRUE(stack_.daemon().WaitLog("its session was begun with another contract mine-1", absl::Seconds(20)))
      << stack_.Logs();
  EXPECT_FALSE(guest.socket().closed());
  stack_.KillDaemon();
  stack_.options().tables = kMine;
  stack_.WriteConfig();
  ASSERT_OK(stack_.StartDaemon());
  EXPECT_TRUE(Eventually([&] { return stack_.PortState("p") == "running"; })) << stack_.Logs();
  EXPECT_FALSE(guest.socket().closed());
}

}  // namespace
}  // namespace everport::component
