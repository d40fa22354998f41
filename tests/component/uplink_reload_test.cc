// A reload that takes uplinks of a running port away, changes or reorders them, while its guest sends. Needs root.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>

#include <boost/json/serialize.hpp>
#include <filesystem>
#include <fstream>
#include <iterator>

#include "tests/component/guest_on_uplinks.h"

namespace everport::component {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

class UplinkReloadTest : public GuestOnUplinks {
 protected:
  TestPort& Vm() { return stack_.ports().front(); }
  void Reload() {
    const size_t from = stack_.daemon().log().size();
    stack_.WriteConfig();
    stack_.daemon().Signal(SIGHUP);
    stack_.keeper().Signal(SIGHUP);
    EXPECT_TRUE(Until([&] { return stack_.daemon().log().find("reloaded: ", from) != std::string::npos; }, "reload"));
  }
  testing::AssertionResult AllOpen(int64_t path) {
    const auto open = [&] {
      const boost::json::value port = Port();
      if (port.at("path").at("index") != path) return false;
      const auto& uplinks = port.at("uplinks").as_array();
      return std::count_if(uplinks.begin(), uplinks.end(),
                           [](const auto& uplink) { return uplink.at("state") == "standby"; }) +
                 1 ==
             static_cast<int64_t>(uplinks.size());
    };
    return Until(open, "all uplinks are open");
  }
  int64_t Switches() const { return Port().at("path_switches").at("planned").to_number<int64_t>(); }
  std::string Choices() const {
    std::ifstream file(stack_.dir() / "state/paths.json");
    return {std::istreambuf_iterator<char>(file), {}};
  }
};

TEST_F(UplinkReloadTest, TheGuestIsMovedOffAnUplinkThatIsRemovedBeforeItIsClosed) {
  ASSERT_NO_FATAL_FAILURE(Start({"tap", "uftap"}));
  ASSERT_TRUE(AllOpen(0));
  Hear("uftap");
  ASSERT_TRUE(ArrivesBy(0));
  const int64_t switches = Switches();
  Vm().uplink_kind = "tap";
  Vm().uplink_device = "uftap";
  Vm().more_uplinks.clear();
  Reload();
  EXPECT_TRUE(ArrivesBy(1));
  const boost::json::value port = Port();
  EXPECT_EQ(port.at("path").at("index"), 0);
  EXPECT_EQ(port.at("path").at("kind"), "tap");
  EXPECT_EQ(Switches(), switches + 1);
  const int at = EventWith("the uplink in use, af_packet uf0, was removed by the configuration; ");
  ASSERT_GE(at, 0);
  const boost::json::object event = Events()[static_cast<size_t>(at)];
  EXPECT_EQ(event.at("path").at("from"), 0);
  EXPECT_EQ(event.at("path").at("to"), 1) << "as numbered before";
  EXPECT_EQ(event.at("path").at("lost"), 0);
  EXPECT_LT(event.at("path").at("ms").to_number<double>(), 100);
  EXPECT_LT(EventWith("uplinks changed by the configuration file"), at) << "the cause is told first";
  EXPECT_GT(EventWith("the path in use, tap uftap, is uplink 0 now; it was 1"), at);
  std::printf("gap %.3f ms\n", event.at("path").at("ms").to_number<double>());
  EXPECT_EQ(arrived_.doubled + arrived_.overtaken + arrived_.corrupted, 0u);
  EXPECT_EQ(port.at("drops_by_cause").at("no_path"), 0);
  EXPECT_EQ(port.at("drops_by_cause").at("uplink_full"), 0);
  EXPECT_EQ(stack_.PortNumber("vm", "sessions"), 1);
}

TEST_F(UplinkReloadTest, TheOnlyUplinkChangedIsASwitchThatDropsNothing) {
  fakes::Shell("ip link add ufbr type bridge && ip link set ufbr up");
  stack_.AddPort(
      {.name = "vm", .uplink_kind = "tap", .uplink_device = "uftap", .mac = "52:54:00:00:ee:02", .bridge = "ufbr"});
  ASSERT_NO_FATAL_FAILURE(Connect());
  ASSERT_TRUE(AllOpen(0));
  const int64_t switches = Switches();
  Vm().bridge.clear();
  Reload();
  ASSERT_TRUE(AllOpen(0));
  EXPECT_TRUE(Announced("uftap")) << "the tap may hang on another switch now";
  fakes::Shell("test ! -e /sys/class/net/uftap/master && ip link del ufbr");
  Hear("uftap");
  EXPECT_TRUE(ArrivesBy(0));
  EXPECT_EQ(EventWith("failed"), -1) << "what the kernel still tells of the old tap is not of the new one";
  EXPECT_EQ(Switches(), switches + 1);
  const int at = EventWith("path 0 -> 0 (tap uftap, relay): the uplink in use, tap uftap, was changed");
  ASSERT_GE(at, 0);
  const double ms = Events()[static_cast<size_t>(at)].at("path").at("ms").to_number<double>();
  std::printf("gap %.3f ms\n", ms);
  EXPECT_GT(ms, 0);
  EXPECT_EQ(Port().at("drops_by_cause").at("no_path"), 0) << "what the guest sends waits in its rings";
}

TEST_F(UplinkReloadTest, AWireThatGoesTogetherWithItsOtherEndIsNotSaidToHaveFailed) {
  stack_.AddPort({.name = "vm",
                  .uplink_kind = "port",
                  .uplink_device = "far",
                  .mac = "52:54:00:00:ee:02",
                  .more_uplinks = {{"tap", "uftap"}}});
  stack_.AddPort({.name = "far", .uplink_kind = "port", .uplink_device = "vm", .mac = "52:54:00:00:ee:03"});
  ASSERT_NO_FATAL_FAILURE(Connect());
  fakes::FrontEnd far({.socket = stack_.Socket("far")});
  const absl::Status connected = far.Connect(absl::Seconds(10));
  ASSERT_TRUE(connected.ok()) << connected;
  ASSERT_TRUE(stack_.Post("/v1/ports/vm/path", "{\"index\": 0}").ok());  // however long the guest there took
  ASSERT_TRUE(AllOpen(0));
  const size_t before = Events().size();
  Vm().uplink_kind = "tap";
  Vm().uplink_device = "uftap";
  Vm().more_uplinks.clear();
  stack_.RemovePort("far");
  Reload();
  Hear("uftap");
  EXPECT_TRUE(ArrivesBy(0));
  const int at = EventWith("path 0 -> 1 (tap uftap, relay): the uplink in use, port far, was removed by the");
  EXPECT_GT(at, EventWith("removed by the configuration file"));
  EXPECT_GT(at, EventWith("uplinks changed by the configuration file"));
  EXPECT_GE(EventWith("uplinks changed by the configuration file"), static_cast<int>(before));
  for (const boost::json::object& event : Events())
    EXPECT_THAT(std::string(event.at("message").as_string()), Not(HasSubstr("does not exist yet")));
}

TEST_F(UplinkReloadTest, AChoiceByHandFollowsItsUplinkAndIsToldWhenThatIsGone) {
  ASSERT_NO_FATAL_FAILURE(Start({"tap", "uftap"}));
  Vm().more_uplinks.emplace_back("tap", "uftap2");
  Reload();
  ASSERT_TRUE(AllOpen(0));
  ASSERT_TRUE(stack_.Post("/v1/ports/vm/path", "{\"index\": 1}").ok());
  ASSERT_TRUE(AllOpen(1));
  Hear("uftap");
  EXPECT_THAT(Choices(), HasSubstr("\"uftap\""));
  const size_t switches = Changes().size();

  Vm().more_uplinks = {{"tap", "uftap2"}, {"tap", "uftap"}};
  Reload();
  ASSERT_TRUE(AllOpen(2));
  EXPECT_TRUE(ArrivesBy(1));
  EXPECT_EQ(Changes().size(), switches) << "the same uplink has another number, that is all";
  EXPECT_EQ(Port().at("path").at("reason"), "chosen by hand");
  EXPECT_THAT(Choices(), HasSubstr("\"uftap\""));

  Vm().more_uplinks = {{"tap", "uftap2"}};
  Reload();
  ASSERT_TRUE(AllOpen(0));
  EXPECT_TRUE(ArrivesBy(0));
  const int gone = EventWith(
      "the uplink chosen by hand, tap uftap, is gone from the configuration; uplinks are chosen by preference again");
  EXPECT_GE(gone, 0);
  EXPECT_GT(EventWith("path 2 -> 0 (af_packet uf0, relay): the uplink in use, tap uftap, was removed by the"), gone);
  EXPECT_EQ(Port().at("path").at("reason"), "first choice");
  EXPECT_THAT(Choices(), Not(HasSubstr("uftap")));
}

}  // namespace
}  // namespace everport::component
