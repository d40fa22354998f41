// The control flow of an attachment: a session that the test takes down and brings up in librte_vhost's place.
#include "backend/service/vdpa_path.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <spdlog/sinks/ostream_sink.h>
#include <spdlog/spdlog.h>

#include <atomic>
#include <mutex>
#include <optional>
#include <sstream>
#include <vector>

#include "absl/time/clock.h"
#include "tests/datapath/fake_vdpa_control.h"

namespace everport {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using State = VdpaPath::State;

constexpr char kName[] = "0000:3b:02.1";

class VdpaPathTest : public testing::Test {
 protected:
  VdpaPathTest() {
    control_->devices[kName] = {.features = ~uint64_t{0}, .protocol_features = ~uint64_t{0}, .queue_pairs = 1};
    auto device = VdpaDevice::Open(kName, "vm1", 1, control_);
    EXPECT_TRUE(device.ok()) << device.status();
    device_ = *device;
    EXPECT_TRUE(link_.Start().ok());
    GuestComes();
    calls_.clear();
  }
  ~VdpaPathTest() override { path_.reset(); }

  // In librte_vhost's place: registers, and ends the connection with what it returns.
  absl::StatusOr<std::shared_ptr<void>> Connect(rte_vdpa_device* vdpa) {
    calls_.push_back(vdpa ? "connect with" : "connect");
    if (vdpa && fail_with_device_) return absl::UnavailableError("no sockets left");
    if (!vdpa && fail_without_-- > 0) return absl::UnavailableError("no sockets left at all");
    attached_ = vdpa != nullptr;
    connected_ = true;
    return std::shared_ptr<void>(nullptr, [this](void*) {
      connected_ = false;
      if (slow_end_) absl::SleepFor(absl::Milliseconds(1100));
      calls_.push_back("end");
      guest_->OnDestroyDevice();
    });
  }
  void GuestComes() {
    guest_->OnConnection(true);
    guest_->OnNewDevice(0);
  }
  // Runs the control thread until `done`; what the guest endpoint tells goes to the path, as Port does it.
  bool RunUntil(const std::function<bool()>& done) {
    const absl::Time deadline = absl::Now() + absl::Seconds(10);
    while (!done()) {
      if (absl::Now() > deadline) return false;
      io_.restart();
      io_.run_for(std::chrono::milliseconds(1));
      if (changed_.exchange(false) && path_) path_->OnGuestChanged();
    }
    return true;
  }
  bool RunTo(State state) {
    return RunUntil([&] { return path_->state() == state; });
  }
  void Start() {
    path_->Start(device_, [this](const absl::Status& status) { started_ = status; });
  }
  // Attached and serving.
  void Serve() {
    Start();
    ASSERT_TRUE(RunTo(State::kAwaitingGuest));
    GuestComes();
    ASSERT_TRUE(RunUntil([&] { return started_.has_value(); }));
    ASSERT_TRUE(started_->ok()) << *started_;
    ASSERT_TRUE(path_->serving());
    calls_.clear();
  }

  boost::asio::io_context io_;
  std::atomic<bool> changed_{false};
  std::shared_ptr<FakeVdpaControl> control_ = std::make_shared<FakeVdpaControl>();
  std::shared_ptr<VdpaDevice> device_;
  std::vector<std::string> calls_;  // the worker's while the link is reconnecting
  bool attached_ = false, fail_with_device_ = false;
  std::atomic<bool> connected_{false}, slow_end_{false};
  std::atomic<int> fail_without_{0};
  std::shared_ptr<GuestEndpoint> guest_ = std::make_shared<GuestEndpoint>(
      "vm1", uint16_t{1}, nullptr, GuestEndpoint::Hooks{[this] { changed_ = true; }, [] {}});
  GuestLink link_{io_, guest_, [this](rte_vdpa_device* vdpa) { return Connect(vdpa); }};
  std::unique_ptr<VdpaPath> path_ = std::make_unique<VdpaPath>(
      io_, "vm1", guest_, link_, VdpaBounds{.replay = absl::Milliseconds(300), .refusal = absl::Milliseconds(20)});
  std::optional<absl::Status> started_, stopped_;
};

TEST_F(VdpaPathTest, AttachingTakesTheSessionUpAnewWithTheDevice) {
  ASSERT_TRUE(guest_->running());
  Start();
  EXPECT_FALSE(guest_->running()) << "pollers are out before librte_vhost is told";
  ASSERT_TRUE(RunTo(State::kAwaitingGuest));
  EXPECT_THAT(calls_, ElementsAre("end", "connect with"));
  EXPECT_FALSE(started_.has_value());
  GuestComes();
  ASSERT_TRUE(RunUntil([&] { return started_.has_value(); }));
  EXPECT_TRUE(started_->ok()) << *started_;
  EXPECT_TRUE(path_->serving());
  EXPECT_TRUE(attached_);
}

TEST_F(VdpaPathTest, DetachingTakesItUpAnewWithoutAndAwaitsTheGuest) {
  Serve();
  path_->Stop([this](const absl::Status& status) { stopped_ = status; });
  EXPECT_FALSE(guest_->running());
  ASSERT_TRUE(RunTo(State::kAwaitingRelay));
  EXPECT_THAT(calls_, ElementsAre("end", "connect"));
  EXPECT_FALSE(stopped_.has_value());
  GuestComes();
  ASSERT_TRUE(RunUntil([&] { return stopped_.has_value(); }));
  EXPECT_TRUE(stopped_->ok()) << *stopped_;
  EXPECT_TRUE(path_->idle());
  EXPECT_FALSE(attached_);
}

TEST_F(VdpaPathTest, ARefusingDriverIsLetGoOfBeforeTheErrorIsTold) {
  Start();
  ASSERT_TRUE(RunTo(State::kAwaitingGuest));
  GuestComes();
  guest_->OnVdpaRefused();
  ASSERT_TRUE(RunTo(State::kAwaitingRelay));
  EXPECT_FALSE(started_.has_value());
  EXPECT_FALSE(attached_);
  GuestComes();
  ASSERT_TRUE(RunUntil([&] { return started_.has_value(); }));
  EXPECT_THAT(std::string(started_->message()),
              HasSubstr("vdpa 0000:3b:02.1: its driver did not take the guest's rings"));
  EXPECT_TRUE(path_->idle());
  EXPECT_TRUE(guest_->running());
}

TEST_F(VdpaPathTest, ASessionThatDoesNotComeBackIsWaitedForNoLongerThanTheBound) {
  Start();
  const absl::Time start = absl::Now();
  ASSERT_TRUE(RunTo(State::kAwaitingRelay)) << "not with the device";
  EXPECT_GE(absl::Now() - start, absl::Milliseconds(290));
  ASSERT_TRUE(RunUntil([&] { return started_.has_value(); })) << "nor without it";
  EXPECT_THAT(std::string(started_->message()), HasSubstr("the guest's session did not come back to it within 300ms"));
  EXPECT_TRUE(path_->idle());
  EXPECT_FALSE(attached_);
}

TEST_F(VdpaPathTest, LibrteVhostThatDoesNotAttachGoesBack) {
  fail_with_device_ = true;
  Start();
  ASSERT_TRUE(RunTo(State::kAwaitingRelay));
  GuestComes();
  ASSERT_TRUE(RunUntil([&] { return started_.has_value(); }));
  EXPECT_THAT(std::string(started_->message()), HasSubstr("no sockets left"));
  EXPECT_TRUE(guest_->running());
}

TEST_F(VdpaPathTest, ASocketThatCannotBeHadAtAllIsTriedAgain) {
  fail_with_device_ = true;
  fail_without_ = 4;  // behind the device, instead of it, and two times by itself
  Start();
  ASSERT_TRUE(RunTo(State::kAwaitingRelay));
  EXPECT_FALSE(connected_);
  ASSERT_TRUE(RunUntil([&] { return connected_.load(); }));
  GuestComes();
  ASSERT_TRUE(RunUntil([&] { return started_.has_value() && path_->idle(); }));
  EXPECT_FALSE(started_->ok());
  EXPECT_TRUE(guest_->running());
  EXPECT_LE(fail_without_, 0);
}

TEST_F(VdpaPathTest, ADriverThatTakesLongToEndItsWorkIsNamedInTheLog) {
  Serve();
  std::ostringstream log;
  const auto before = spdlog::default_logger();
  spdlog::set_default_logger(
      std::make_shared<spdlog::logger>("test", std::make_shared<spdlog::sinks::ostream_sink_mt>(log)));
  slow_end_ = true;
  path_->Stop([this](const absl::Status& status) { stopped_ = status; });
  ASSERT_TRUE(RunTo(State::kAwaitingRelay));
  slow_end_ = false;
  spdlog::set_default_logger(before);
  EXPECT_THAT(log.str(), HasSubstr("vdpa 0000:3b:02.1: its driver took 1.1"));
}

TEST_F(VdpaPathTest, AGuestThatGoesWhileItIsAwaitedAndComesAgainIsServed) {
  Start();
  ASSERT_TRUE(RunTo(State::kAwaitingGuest));
  GuestComes();
  ASSERT_TRUE(RunTo(State::kSettling));
  guest_->OnDestroyDevice();  // the keeper begins anew
  ASSERT_TRUE(RunTo(State::kAwaitingGuest));
  GuestComes();
  ASSERT_TRUE(RunUntil([&] { return started_.has_value(); }));
  EXPECT_TRUE(started_->ok()) << *started_;
}

TEST_F(VdpaPathTest, ARefusalThatComesLateTroublesTheDevice) {
  Serve();
  guest_->OnVdpaRefused();
  ASSERT_TRUE(RunUntil([&] { return device_->trouble() == Trouble::kError; }));
  EXPECT_TRUE(path_->serving()) << "whether to leave it is not for the path to say";
}

TEST_F(VdpaPathTest, AbandonedWhileItServesItLetsGoOfTheDeviceByItself) {
  Serve();
  device_.reset();  // the uplink has gone from the configuration
  bool changed = false;
  path_->Abandon([&] { changed = true; });
  ASSERT_TRUE(RunUntil([&] { return changed; }));
  EXPECT_TRUE(path_->idle());
  EXPECT_FALSE(attached_);
  EXPECT_TRUE(VdpaDevice::Open(kName, "vm2", 1, control_).ok()) << "it is anybody's again";
}

TEST_F(VdpaPathTest, AbandonedWhileItAttachesItTellsNobodyAndDetaches) {
  Start();
  bool changed = false;
  path_->Abandon([&] { changed = true; });
  ASSERT_TRUE(RunUntil([&] { return changed; }));
  EXPECT_FALSE(started_.has_value());
  EXPECT_TRUE(path_->idle());
  EXPECT_FALSE(attached_);
}

TEST_F(VdpaPathTest, ASessionThatEndsInTheMiddleTellsNobody) {
  Start();
  path_.reset();
  ASSERT_TRUE(RunUntil([&] { return !link_.reconnecting(); }));
  GuestComes();
  io_.restart();
  io_.run_for(std::chrono::milliseconds(400));  // longer than any bound
  EXPECT_FALSE(started_.has_value());
}

}  // namespace
}  // namespace everport
