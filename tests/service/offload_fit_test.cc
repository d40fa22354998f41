#include "backend/service/offload_fit.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "migration/feature_contract.h"

namespace everport {
namespace {

using ::testing::HasSubstr;

constexpr uint64_t kFeatures = uint64_t{1} << kVersion1;
constexpr uint64_t kMigrated = kFeatures | uint64_t{1} << kVhostLogAll;

class FakeDevice : public OffloadDevice {
 public:
  absl::Status Covers(uint64_t features, uint16_t queue_pairs, uint16_t) const override {
    if (features >> kRingPacked & 1) return absl::FailedPreconditionError("no packed rings");
    return queue_pairs > 1 ? absl::FailedPreconditionError("one queue pair") : absl::OkStatus();
  }
  absl::Status Start(const GuestRings&) override { return absl::OkStatus(); }
  absl::Status SetNotifiers(const GuestRings&) override { return absl::OkStatus(); }
  absl::Status Stop(GuestRings&) override { return absl::OkStatus(); }
  Trouble trouble() const override { return Trouble::kNone; }
  int event_fd() const override { return -1; }
  bool LogsDirtyPages() const override { return logs; }
  bool logs = false;
};

std::string WhyNot(const FakeDevice& device, const OffloadGuest& guest) {
  return std::string(Serves(device, guest).message());
}

TEST(OffloadFitTest, AGuestThatItCoversIsServed) {
  FakeDevice device;
  EXPECT_EQ(Serves(device, {kFeatures, 1, false}), absl::OkStatus());
  EXPECT_EQ(WhyNot(device, {kFeatures | uint64_t{1} << kRingPacked, 1, false}), "no packed rings");
  EXPECT_EQ(WhyNot(device, {kFeatures, 2, false}), "one queue pair");
}

TEST(OffloadFitTest, AGuestWhosePagesMayMissIsNotWhateverTheDeviceCan) {
  FakeDevice device;
  device.logs = true;
  EXPECT_THAT(WhyNot(device, {kFeatures, 1, true}), HasSubstr("arrives by post-copy"));
  EXPECT_THAT(WhyNot(device, {kMigrated, 1, true}), HasSubstr("arrives by post-copy"));
}

TEST(OffloadFitTest, NobodyIsNoReason) {
  EXPECT_EQ(Serves(FakeDevice(), {0, 1, true}), absl::OkStatus());
}

TEST(OffloadFitTest, AMigratedGuestNeedsADeviceThatLogs) {
  FakeDevice device;
  EXPECT_THAT(WhyNot(device, {kMigrated, 1, false}), HasSubstr("does not tell what it writes"));
  device.logs = true;
  EXPECT_EQ(Serves(device, {kMigrated, 1, false}), absl::OkStatus());
}

}  // namespace
}  // namespace everport
