// The thread that devices are opened and closed on, with jobs that do not return until the test lets them.
#include "backend/service/device_worker.h"

#include <gtest/gtest.h>

#include <boost/asio/io_context.hpp>
#include <future>

namespace everport {
namespace {

class DeviceWorkerTest : public testing::Test {
 protected:
  // Returns when it is under way.
  void RunStuck() {
    worker_.Run(
        [begun = &begun_, released = released_.get_future().share()] {
          begun->set_value();
          released.wait();
        },
        {.port = "vm1", .what = "vdev net_null0", .serial = 7});
    begun_.get_future().wait();
  }
  static absl::Time Later(absl::Duration after) { return absl::Now() + after; }

  boost::asio::io_context io_;
  std::promise<void> begun_, released_;
  DeviceWorker worker_{io_};
};

TEST_F(DeviceWorkerTest, AJobThatDoesNotReturnIsNamedOnceItIsSlow) {
  RunStuck();
  EXPECT_FALSE(worker_.slow(Later(DeviceWorker::kSlow / 2)));
  const auto slow = worker_.slow(Later(DeviceWorker::kSlow));
  ASSERT_TRUE(slow);
  EXPECT_EQ(slow->about.port, "vm1");
  EXPECT_EQ(slow->about.what, "vdev net_null0");
  EXPECT_EQ(slow->about.serial, 7u);
  EXPECT_TRUE(slow->about.opening);
  released_.set_value();
  ASSERT_TRUE(worker_.Finish(absl::Seconds(10)));
  EXPECT_FALSE(worker_.slow(Later(absl::Hours(1)))) << "nothing is under way";
}

TEST_F(DeviceWorkerTest, FinishGivesAJobUpThatDoesNotReturnAndSkipsWhatWaitsForIt) {
  RunStuck();
  bool opened = false, closed = false, told = false;
  worker_.Run<int>([&] { return opened = true; }, [&](int) { told = true; });
  worker_.Run([&] { closed = true; });
  const absl::Time before = absl::Now();
  EXPECT_FALSE(worker_.Finish(absl::Milliseconds(50)));
  EXPECT_GE(absl::Now() - before, absl::Milliseconds(50));
  released_.set_value();
  EXPECT_TRUE(worker_.Finish(absl::Seconds(10)));
  io_.run();
  EXPECT_FALSE(opened) << "nobody takes it any more";
  EXPECT_FALSE(told);
  EXPECT_TRUE(closed) << "what is open is closed all the same";
}

TEST_F(DeviceWorkerTest, FinishWaitsNoLongerThanForTheLastJob) {
  worker_.Run([] {});
  EXPECT_TRUE(worker_.Finish(absl::Seconds(30)));
}

}  // namespace
}  // namespace everport
