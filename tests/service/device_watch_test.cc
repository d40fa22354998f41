// What the kernel announces, in a network namespace of this process's own. Needs root.
#include "backend/service/device_watch.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <net/if.h>
#include <sched.h>

#include <chrono>
#include <cstdlib>
#include <fstream>
#include <map>
#include <vector>

#include "absl/strings/str_cat.h"

namespace everport {
namespace {

using ::testing::Contains;
using ::testing::IsEmpty;
using ::testing::Not;

void Shell(const std::string& command) {
  ASSERT_EQ(std::system(command.c_str()), 0) << command;
}

class DeviceWatchTest : public ::testing::Test {
 protected:
  static void SetUpTestSuite() { ASSERT_EQ(unshare(CLONE_NEWNET), 0) << "this test needs root"; }
  void SetUp() override {
    auto watch = DeviceWatch::Start(
        io_, {[this](const std::string& name) { devices_.push_back(name); },
              [this](const std::string& name, unsigned index, bool present, bool running) {
                heard_.push_back(absl::StrCat(name, present ? "" : " gone", running ? " running" : ""));
                indices_[name] = index;
              }});
    ASSERT_TRUE(watch.ok()) << watch.status();
    watch_ = std::move(*watch);
  }
  // Runs handlers until it is heard.
  void Await(const std::string& what) { AwaitIn(heard_, what); }
  void AwaitIn(const std::vector<std::string>& heard, const std::string& what) {
    const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(10);
    const auto has = [&] { return std::find(heard.begin(), heard.end(), what) != heard.end(); };
    while (!has() && std::chrono::steady_clock::now() < end) io_.run_one_until(end);
    EXPECT_THAT(heard, Contains(what));
  }

  boost::asio::io_context io_;
  std::vector<std::string> heard_, devices_;
  std::map<std::string, unsigned> indices_;
  std::unique_ptr<DeviceWatch> watch_;
};

TEST_F(DeviceWatchTest, NetworkDeviceComesRunsStopsAndGoes) {
  Shell("ip link add dw0 type veth peer name dw1");
  Await("dw0");
  EXPECT_FALSE(DeviceWatch::Get("dw0")->running);
  Shell("ip link set dw0 up && ip link set dw1 up");
  Await("dw0 running");
  EXPECT_TRUE(DeviceWatch::Get("dw0")->running);
  EXPECT_EQ(DeviceWatch::Get("dw0")->index, if_nametoindex("dw0"));
  heard_.clear();
  Shell("ip link set dw1 down");  // its peer's carrier
  Await("dw0");
  heard_.clear();
  const unsigned index = if_nametoindex("dw0");
  Shell("ip link del dw0");
  Await("dw0 gone");
  EXPECT_EQ(indices_["dw0"], index);
  EXPECT_TRUE(absl::IsNotFound(DeviceWatch::Get("dw0").status())) << DeviceWatch::Get("dw0").status();
}

TEST_F(DeviceWatchTest, LeavingABridgeIsNotGoing) {
  Shell("ip link add br-dw type bridge && ip link set br-dw up && ip link add dw0 type veth peer name dw1");
  Shell("ip link set dw0 master br-dw up && ip link set dw1 up");
  Await("dw0 running");
  heard_.clear();
  Shell("ip link set dw0 nomaster && ip link set dw0 down");
  Await("dw0");
  EXPECT_THAT(heard_, Not(Contains("dw0 gone")));
  Shell("ip link del dw0 && ip link del br-dw");
}

TEST_F(DeviceWatchTest, RenamedOneGoesUnderItsOldName) {
  Shell("ip link add dw0 type veth peer name dw1");
  Await("dw0");
  Shell("ip link set dw0 name dw2");
  Await("dw2");
  EXPECT_THAT(heard_, Contains("dw0 gone"));
  Shell("ip link del dw2");
}

TEST_F(DeviceWatchTest, WhatWasMissedIsFoundByComparing) {
  Shell("ip link add dw0 type veth peer name dw1");
  Await("dw0");
  // More announcements than the socket holds, while nobody reads.
  Shell("for i in $(seq 4000); do echo link set dw0 mtu $((1400 + i % 2)); done | ip -batch -");
  Shell("ip link del dw0 && ip link add dw9 type veth peer name dw8");
  Await("dw9");
  Await("dw0 gone");
  Shell("ip link del dw9");
}

// uevents by request: the kernel announces anew what `uevent` is written to.
TEST_F(DeviceWatchTest, DeviceIsToldByItsName) {
  std::ofstream file("/sys/class/misc/tun/uevent");
  ASSERT_TRUE(file << "change" << std::flush) << "/sys/class/misc/tun/uevent";
  AwaitIn(devices_, "tun");
}

TEST_F(DeviceWatchTest, EndsWithHandlersUnderWay) {
  Shell("ip link add dw0 type veth peer name dw1");
  watch_.reset();
  io_.run();
  EXPECT_THAT(heard_, IsEmpty());
  Shell("ip link del dw0");
}

}  // namespace
}  // namespace everport
