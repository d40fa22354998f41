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
