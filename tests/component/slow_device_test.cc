// A device whose driver does not return from its opening: a capture file that is a fifo to which nobody writes. It
// holds up the thread that all devices are opened and closed on, but no guest. Needs root.
#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#include <boost/json/serialize.hpp>

#include "absl/strings/str_cat.h"
#include "tests/component/guest_on_uplinks.h"

namespace everport::component {
namespace {

using ::testing::HasSubstr;

class SlowDeviceTest : public GuestOnUplinks {
 protected:
  // The guest is served by the first uplink, the second one hangs and everyone may know.
  void StartWithOneThatHangs() {
    fifo_ = stack_.dir() / "fifo";
    ASSERT_EQ(::mkfifo(fifo_.c_str(), 0600), 0);
    vdev_ = absl::StrCat("net_pcap0,rx_pcap=", fifo_);
    ASSERT_NO_FATAL_FAILURE(Start({"vdev", vdev_}));
    ASSERT_TRUE(ArrivesBy(0));
    ASSERT_TRUE(Until([&] { return EventWith(Hangs()) >= 0; }, "it is told"));
  }
  std::string Hangs() const { return absl::StrCat("vdev ", vdev_, ": being opened for "); }
  std::string Health() const { return boost::json::serialize(stack_.Get("/v1/health").value_or(nullptr)); }

  std::string fifo_, vdev_;
};

TEST_F(SlowDeviceTest, ADriverThatDoesNotReturnIsToldAndWhoWaitsForItAndThatItHasReturned) {
  ASSERT_NO_FATAL_FAILURE(StartWithOneThatHangs());
  const auto uplink = Port().at("uplinks").at(1);
  EXPECT_EQ(uplink.at("state"), "opening");
  EXPECT_THAT(std::string(uplink.at("error").as_string()), HasSubstr(Hangs()));
  EXPECT_THAT(std::string(uplink.at("error").as_string()), HasSubstr("the devices of other uplinks wait for it"));
  EXPECT_THAT(Health(), HasSubstr(absl::StrCat("port vm: uplink 1: ", Hangs())));
  EXPECT_THAT(stack_.daemon().log(), HasSubstr(absl::StrCat("vm: ", Hangs())));

  ASSERT_OK(stack_.Post("/v1/ports", absl::StrCat(R"({"name": "two", "socket": ")", stack_.Socket("two"),
                                                  R"(", "uplink": [{"kind": "vdev", "device": "net_null3"}]})")));
  const auto waiting = stack_.Get("/v1/ports/two");
  ASSERT_TRUE(waiting.ok()) << waiting.status();
  EXPECT_THAT(boost::json::serialize(waiting->at("uplinks").at(0).at("error")),
              HasSubstr(absl::StrCat("vdev net_null3: not opened yet: it waits for vdev ", vdev_, " of port vm")));
  EXPECT_TRUE(ArrivesBy(0)) << "the guest has noticed nothing";

  ::close(::open(fifo_.c_str(), O_WRONLY | O_NONBLOCK));  // an empty file, which is none of pcap's
  EXPECT_TRUE(
      Until([&] { return EventWith(absl::StrCat("vdev ", vdev_, ": its driver has returned after")) >= 0; }, "over"));
  EXPECT_TRUE(Until([&] { return stack_.Get("/v1/ports/two")->at("path").at("index") == 0; }, "the other is opened"));
}

// Not even one whose port has been given up: its uplink is out of the configuration.
TEST_F(SlowDeviceTest, ADriverThatDoesNotReturnStaysInTheHealthWithoutItsUplink) {
  ASSERT_NO_FATAL_FAILURE(StartWithOneThatHangs());
  stack_.ports().front().more_uplinks.clear();
  stack_.WriteConfig();
  stack_.daemon().Signal(SIGHUP);
  ASSERT_TRUE(Until([&] { return Port().at("uplinks").as_array().size() == 1; }, "it is taken out"));
  EXPECT_THAT(Health(), HasSubstr(absl::StrCat("port vm: ", Hangs())));
}

// The daemon ends in time, its pollers work until then, and the guest's session stays with the keeper.
TEST_F(SlowDeviceTest, ADriverThatDoesNotReturnHoldsUpNeitherTheDaemonsEndNorTheGuest) {
  ASSERT_NO_FATAL_FAILURE(StartWithOneThatHangs());
  const absl::Time told = absl::Now();
  absl::Time last = told;
  stack_.daemon().Signal(SIGTERM);
  uint64_t before = arrived_.received;
  ASSERT_TRUE(Until(
      [&] {
        if (std::exchange(before, arrived_.received) != arrived_.received) last = absl::Now();
        return !stack_.daemon().running();
      },
      "the daemon has ended"));
  const absl::Time ended = absl::Now();
  std::printf("ended %.0f ms after SIGTERM; the guest's last frame %.0f ms before that\n",
              absl::ToDoubleMilliseconds(ended - told), absl::ToDoubleMilliseconds(ended - last));
  EXPECT_EQ(stack_.daemon().exit_status(), 0);
  EXPECT_LT(ended - told, absl::Milliseconds(1500));
  EXPECT_LT(ended - last, absl::Milliseconds(400)) << "the pollers worked on while the device was waited for";
  EXPECT_THAT(stack_.daemon().log(), HasSubstr("a device's driver does not return: everportd ends without it"));
  ASSERT_OK(stack_.StartDaemon());
  EXPECT_TRUE(ArrivesBy(0)) << "its successor takes the guest over";
}

}  // namespace
}  // namespace everport::component
