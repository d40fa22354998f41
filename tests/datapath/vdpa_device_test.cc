#include "backend/datapath/vdpa_device.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <utility>

#include "backend/vhost_user/message.h"
#include "migration/feature_contract.h"
#include "tests/datapath/fake_vdpa_control.h"

namespace everport {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::Not;
using testing::StartsWith;

constexpr uint64_t Bit(unsigned bit) {
  return uint64_t{1} << bit;
}
constexpr uint64_t kFeatures = Bit(kVersion1) | Bit(kNetMrgRxbuf) | Bit(kVhostUserProtocolFeatures) | Bit(kRingPacked);
constexpr VdpaLimits kDevice = {
    .features = kFeatures, .protocol_features = Bit(vhost_user::kProtocolReplyAck), .queue_pairs = 2};
constexpr char kName[] = "0000:3b:02.1";

class VdpaDeviceTest : public testing::Test {
 protected:
  absl::StatusOr<std::shared_ptr<VdpaDevice>> Open(const std::string& device = kName, uint16_t queue_pairs = 1,
                                                   const std::string& port = "vm1") {
    return VdpaDevice::Open(device, port, queue_pairs, control_);
  }
  std::string Refusal(const std::string& device = kName, uint16_t queue_pairs = 1, const std::string& port = "vm1") {
    return std::string(Open(device, queue_pairs, port).status().message());
  }
  const std::shared_ptr<FakeVdpaControl> control_ = std::make_shared<FakeVdpaControl>();
};

TEST_F(VdpaDeviceTest, OneThatDpdkKnowsIsUsedAsItIsAndLeftThere) {
  control_->devices[kName] = kDevice;
  auto device = Open();
  ASSERT_TRUE(device.ok()) << device.status();
  EXPECT_EQ((*device)->name(), kName);
  EXPECT_EQ((*device)->handle(), control_->Find(kName));
  EXPECT_EQ((*device)->trouble(), Trouble::kNone);
  device->reset();
  EXPECT_THAT(control_->probed, IsEmpty());
  EXPECT_THAT(control_->removed, IsEmpty());
}

TEST_F(VdpaDeviceTest, OneThatDpdkDoesNotKnowIsProbedAndRemovedInTheEnd) {
  control_->hidden[kName] = kDevice;
  auto device = Open();
  ASSERT_TRUE(device.ok()) << device.status();
  EXPECT_THAT(control_->probed, ElementsAre("0000:3b:02.1,class=vdpa"));
  device->reset();
  EXPECT_THAT(control_->removed, ElementsAre(kName));
}

TEST_F(VdpaDeviceTest, ADriversArgumentsAreKeptAsTheyAre) {
  control_->hidden[kName] = kDevice;
  const auto device = Open("0000:3b:02.1,vdpa=1");
  ASSERT_TRUE(device.ok()) << device.status();
  EXPECT_EQ((*device)->name(), kName);
  EXPECT_THAT(control_->probed, ElementsAre("0000:3b:02.1,vdpa=1"));
}

TEST_F(VdpaDeviceTest, NotFoundNamesTheDeviceAndThoseThereAre) {
  control_->probe_error = absl::UnavailableError("no such device");
  EXPECT_THAT(Refusal(),
              HasSubstr("vdpa 0000:3b:02.1: DPDK could not open it (no such device); DPDK has no vDPA device"));
  control_->devices["0000:3b:02.2"] = kDevice;
  control_->devices["0000:3b:02.3"] = kDevice;
  EXPECT_THAT(Refusal(), HasSubstr("DPDK has 0000:3b:02.2, 0000:3b:02.3; name a device"));
}

TEST_F(VdpaDeviceTest, AProbedDeviceThatIsNoVdpaDevice) {
  EXPECT_THAT(Refusal(), AllOf(StartsWith("vdpa 0000:3b:02.1: no vDPA driver of DPDK's took it"),
                               HasSubstr("\"0000:3b:02.1,vdpa=1\"")));
}

TEST_F(VdpaDeviceTest, ADeviceBelongsToOnePortUntilItIsClosed) {
  control_->devices[kName] = kDevice;
  auto device = Open();
  ASSERT_TRUE(device.ok()) << device.status();
  EXPECT_THAT(Refusal("0000:3b:02.1,class=vdpa", 1, "vm2"),
              HasSubstr("vdpa 0000:3b:02.1: in use by port vm1; a vDPA device belongs to one port: name another"));
  device->reset();
  EXPECT_TRUE(Open(kName, 1, "vm2").ok());
}

TEST_F(VdpaDeviceTest, TooFewQueues) {
  control_->devices[kName] = kDevice;
  EXPECT_THAT(Refusal(kName, 4), HasSubstr("it has 2 queue pairs and the port 4; lower queue_pairs"));
  EXPECT_TRUE(Open(kName, 2).ok()) << "a refused device is anybody's again";
}

TEST_F(VdpaDeviceTest, ADriverThatAcknowledgesNothingIsNotForTheKeeper) {
  control_->devices[kName] = {
      .features = kFeatures, .protocol_features = ~Bit(vhost_user::kProtocolReplyAck), .queue_pairs = 1};
  EXPECT_THAT(Refusal(), HasSubstr("its driver lacks VHOST_USER_PROTOCOL_F_REPLY_ACK"));
}

TEST_F(VdpaDeviceTest, CoversWhatItOffersAndNamesWhatItLacks) {
  control_->devices[kName] = kDevice;
  control_->devices[kName].features |= Bit(kVhostLogAll);
  const auto device = Open();
  ASSERT_TRUE(device.ok()) << device.status();
  EXPECT_TRUE((*device)->Covers(Bit(kVersion1) | Bit(kNetMrgRxbuf), 2, 256).ok());
  const std::string lacks((*device)->Covers(Bit(kVersion1) | Bit(kRingEventIdx), 1, 256).message());
  EXPECT_EQ(lacks, "vdpa 0000:3b:02.1 cannot serve this guest: the device lacks VIRTIO_RING_F_EVENT_IDX");
  EXPECT_EQ((*device)->Lacks(Bit(kVersion1) | Bit(kRingEventIdx) | Bit(kRingPacked), 1), Bit(kRingEventIdx));
  const std::string queues((*device)->Covers(Bit(kVersion1), 3, 256).message());
  EXPECT_THAT(queues, HasSubstr("the device has 2 queue pairs and the guest uses 3"));
  const std::string packed((*device)->Covers(Bit(kVersion1) | Bit(kRingPacked), 1, 256).message());
  EXPECT_THAT(packed, AllOf(HasSubstr("packed rings (VIRTIO_F_RING_PACKED)"), Not(HasSubstr("lacks"))));
}

TEST_F(VdpaDeviceTest, CoversNobodyWithoutLoggingForAMigrationWouldEndTheSession) {
  control_->devices[kName] = kDevice;
  const auto device = Open();
  ASSERT_TRUE(device.ok()) << device.status();
  EXPECT_EQ((*device)->Covers(Bit(kVersion1), 1, 256).message(),
            "vdpa 0000:3b:02.1 cannot serve this guest: the device lacks VHOST_F_LOG_ALL");
}

TEST_F(VdpaDeviceTest, AnUnpluggedDeviceIsRemovedAndARefusalIsAnErrorUntilItIsOpenedAnew) {
  control_->devices[kName] = kDevice;
  auto device = Open();
  ASSERT_TRUE(device.ok()) << device.status();
  (*device)->Refuse();
  EXPECT_EQ((*device)->trouble(), Trouble::kError);
  control_->gone.insert(kName);
  EXPECT_EQ((*device)->trouble(), Trouble::kRemoved);
  control_->gone.clear();
  device->reset();
  device = Open();
  ASSERT_TRUE(device.ok()) << device.status();
  EXPECT_EQ((*device)->trouble(), Trouble::kNone);
}

}  // namespace
}  // namespace everport
