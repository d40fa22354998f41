// One run of an offload device: what ends it, and what it makes of changes. A device that only counts, and a guest
// endpoint that the test tells what librte_vhost would.
#include "backend/service/offload_path.h"

#include <gtest/gtest.h>

#include <atomic>
#include <boost/asio/io_context.hpp>
#include <chrono>
#include <optional>
#include <thread>

#include "absl/time/clock.h"
#include "migration/feature_contract.h"

namespace everport {
namespace {

class CountingDevice : public OffloadDevice {
 public:
  absl::Status Covers(uint64_t, uint16_t, uint16_t) const override { return absl::OkStatus(); }
  absl::Status Start(const GuestRings&) override {
    ++starts;
    return absl::OkStatus();
  }
  absl::Status SetNotifiers(const GuestRings&) override {
    ++notifiers;
    return absl::OkStatus();
  }
  absl::Status Stop(GuestRings&) override {
    ++stops;
    while (hold) std::this_thread::yield();
    return absl::OkStatus();
  }
  Trouble trouble() const override { return Trouble::kNone; }
  int event_fd() const override { return -1; }
  bool LogsDirtyPages() const override { return logs; }

  bool logs = false;
  std::atomic<bool> hold{false};  // Stop
  std::atomic<int> starts{0}, stops{0}, notifiers{0};
};

class OffloadPathTest : public testing::Test {
 protected:
  std::unique_ptr<OffloadPath> Start() {
    auto path = std::make_unique<OffloadPath>(guest_, device_, worker_);
    std::optional<absl::Status> started;
    path->Start([&](const absl::Status& status) { started = status; });
    Run([&] { return started.has_value(); });
    EXPECT_TRUE(started.has_value() && started->ok());
    return path;
  }
  void Run(const std::function<bool()>& done) {
    for (const absl::Time deadline = absl::Now() + absl::Seconds(10); !done() && absl::Now() < deadline;) {
      io_.restart();
      io_.run_for(std::chrono::milliseconds(1));
    }
  }

  boost::asio::io_context io_;
  std::shared_ptr<CountingDevice> device_ = std::make_shared<CountingDevice>();
  std::shared_ptr<GuestEndpoint> guest_ =
      std::make_shared<GuestEndpoint>("vm1", uint16_t{1}, nullptr, GuestEndpoint::Hooks{[] {}, [] {}});
  DeviceWorker worker_{io_};
};

TEST_F(OffloadPathTest, OtherEventfdsAreHandedOverWhileItRuns) {
  guest_->OnNewDevice(0);
  const auto path = Start();
  EXPECT_TRUE(path->TakeChanges());
  EXPECT_EQ(device_->notifiers, 1);
  EXPECT_EQ(device_->stops, 0);
}

// The guest's device goes and comes between two looks of the control thread's: it runs, with the same rings, and the
// offload device has let go of it.
TEST_F(OffloadPathTest, AGuestThatWentAndCameAgainIsNotTakenForTheOneThatIsServed) {
  guest_->OnNewDevice(0);
  auto path = Start();
  guest_->OnDestroyDevice();
  EXPECT_EQ(device_->stops, 1);
  guest_->OnNewDevice(0);
  ASSERT_TRUE(guest_->running());
  EXPECT_FALSE(path->TakeChanges()) << "to be started anew";
  EXPECT_EQ(device_->notifiers, 0) << "of a device that serves nobody";

  std::optional<absl::Status> stopped;
  path->Stop([&](const absl::Status& status) { stopped = status; });
  Run([&] { return stopped.has_value(); });
  ASSERT_TRUE(stopped.has_value());
  EXPECT_TRUE(stopped->ok());
  EXPECT_EQ(device_->stops, 1) << "not a second time";
  path = Start();
  EXPECT_EQ(device_->starts, 2);
  EXPECT_TRUE(path->TakeChanges());
}

constexpr uint64_t kLogAll = uint64_t{1} << kVhostLogAll;

TEST_F(OffloadPathTest, ADeviceThatDoesNotLogHasLetGoBeforeTheFrontEndIsAnswered) {
  guest_->OnNewDevice(0);
  auto path = Start();
  guest_->OnFeatures(kLogAll);
  EXPECT_EQ(device_->stops, 1);
  EXPECT_TRUE(path->TakeChanges()) << "it is not to be started anew";
  path.reset();
  EXPECT_EQ(device_->stops, 1) << "not a second time";
}

// Logging begins while the device is being stopped on purpose: whoever comes first, the rings' positions are taken
// once, and nobody else is let into the rings before.
TEST_F(OffloadPathTest, AStopUnderWayWhenLoggingBeginsEndsTheRunOnce) {
  guest_->OnNewDevice(0);
  auto path = Start();
  device_->hold = true;
  std::optional<absl::Status> stopped;
  path->Stop([&](const absl::Status& status) { stopped = status; });
  while (device_->stops == 0) std::this_thread::yield();
  std::thread event([this] { guest_->OnFeatures(kLogAll); });
  while (!guest_->logging()) std::this_thread::yield();
  device_->hold = false;
  Run([&] { return stopped.has_value(); });
  event.join();
  ASSERT_TRUE(stopped.has_value() && stopped->ok());
  EXPECT_EQ(device_->stops, 1);
  EXPECT_FALSE(guest_->ClearOffload()) << "the hook has been taken";
  path.reset();
  EXPECT_EQ(device_->stops, 1);
}

TEST_F(OffloadPathTest, ADeviceThatDoesNotLogIsNotStartedWhileTheFrontEndDoes) {
  guest_->OnNewDevice(0);
  guest_->OnFeatures(kLogAll);
  OffloadPath path(guest_, device_, worker_);
  std::optional<absl::Status> started;
  path.Start([&](const absl::Status& status) { started = status; });
  Run([&] { return started.has_value(); });
  ASSERT_TRUE(started.has_value());
  EXPECT_TRUE(absl::IsCancelled(*started)) << "no fault of the device: " << *started;
  EXPECT_EQ(device_->starts, 0);
}

TEST_F(OffloadPathTest, ADeviceThatLogsStays) {
  device_->logs = true;
  guest_->OnNewDevice(0);
  const auto path = Start();
  guest_->OnFeatures(kLogAll);
  EXPECT_EQ(device_->stops, 0);
}

TEST_F(OffloadPathTest, AGuestThatGoesWhileItIsServedEndsTheRunOnce) {
  guest_->OnNewDevice(0);
  auto path = Start();
  guest_->OnDestroyDevice();
  path.reset();
  EXPECT_EQ(device_->stops, 1);
}

}  // namespace
}  // namespace everport
