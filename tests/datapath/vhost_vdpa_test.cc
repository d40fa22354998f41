#include "backend/datapath/vhost_vdpa.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <cerrno>
#include <fstream>

#include "absl/time/clock.h"
#include "backend/datapath/virtio_net_abi.h"
#include "migration/feature_contract.h"
#include "tests/datapath/fake_vhost_vdpa.h"
#include "tests/datapath/offload_guest.h"
#include "tests/fakes/temp_dir.h"

namespace everport {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsSupersetOf;
using ::testing::Not;
using virtio_net::kAccessPlatform;

constexpr uint64_t Bit(unsigned bit) {
  return uint64_t{1} << bit;
}
constexpr uint64_t kPlain = Bit(kVersion1) | Bit(kNetMrgRxbuf);
const char kNode[] = "/dev/vhost-vdpa-7";

MATCHER_P2(StatusIs, code, message, "") {
  return arg.code() == code && ::testing::ExplainMatchResult(message, std::string(arg.message()), result_listener);
}
#define EXPECT_OK(expression)                        \
  do {                                               \
    const absl::Status status_ = (expression);       \
    EXPECT_TRUE(status_.ok()) << status_.ToString(); \
  } while (false)

bool Readable(int fd, int timeout_ms = 0) {
  pollfd p{fd, POLLIN, 0};
  return ::poll(&p, 1, timeout_ms) == 1;
}
uint64_t Count(int fd) {
  eventfd_t count = 0;
  return ::eventfd_read(fd, &count) == 0 ? count : 0;
}

class VhostVdpaTest : public ::testing::Test {
 protected:
  VhostVdpaTest() {
    fake_->With([](auto& s) { s.features = kPlain | Bit(kAccessPlatform); });
    bounds_.look_every = absl::Milliseconds(20);
  }
  ~VhostVdpaTest() override {
    device_.reset();
    for (const char* call : {"OPEN", "CLOSE", "RESET", "STATUS", "GET_BASE", "SUSPEND", "UNMAP"}) fake_->Release(call);
  }

  void Open() {
    auto device = VhostVdpaDevice::Open(kNode, fake_, bounds_);
    ASSERT_TRUE(device.ok()) << device.status();
    device_ = *std::move(device);
    fake_->With([](auto& s) { s.calls.clear(); });
  }
  std::vector<std::string> Calls() {
    return fake_->With([](auto& s) { return std::exchange(s.calls, {}); });
  }
  // Waits for trouble() to become that; the device says by its eventfd when to look.
  bool AwaitTrouble(Trouble trouble) {
    const absl::Time deadline = absl::Now() + absl::Seconds(10);
    while (device_->trouble() != trouble) {
      if (absl::Now() > deadline) return false;
      Readable(device_->event_fd(), 1000);
      Count(device_->event_fd());
    }
    return true;
  }

  const std::shared_ptr<FakeVhostVdpa> fake_ = std::make_shared<FakeVhostVdpa>();
  VhostVdpaBounds bounds_;
  std::unique_ptr<VhostVdpaDevice> device_;
  OffloadGuest guest_{{.ring_size = 64, .regions = 2, .region_bytes = 1u << 20}};
};

// ---- Opening

TEST_F(VhostVdpaTest, SaysWhatTheDeviceIs) {
  fake_->With([](auto& s) { s.features |= Bit(virtio_net::kMac); });
  Open();
  EXPECT_EQ(device_->device_features(), kPlain | Bit(kAccessPlatform) | Bit(virtio_net::kMac));
  EXPECT_EQ(device_->info().max_queue_pairs, 1);
  EXPECT_EQ(device_->info().max_ring_size, 1024);
  EXPECT_THAT(*device_->info().mac, ElementsAre(0x52, 0x54, 0, 0, 0, 9));
  device_.reset();
  EXPECT_EQ(fake_->With([](auto& s) { return s.closed; }), 1);
}

TEST_F(VhostVdpaTest, RefusesWhatIsNoNetworkDevice) {
  fake_->With([](auto& s) { s.device_id = 2; });
  EXPECT_THAT(VhostVdpaDevice::Open(kNode, fake_, bounds_).status(),
              StatusIs(absl::StatusCode::kFailedPrecondition, AllOf(HasSubstr(kNode), HasSubstr("(block)"))));
  fake_->With([](auto& s) { s.errors["DEVICE_ID"] = ENOTTY; });
  EXPECT_THAT(VhostVdpaDevice::Open(kNode, fake_, bounds_).status(),
              StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("not a vhost-vdpa device")));
  EXPECT_EQ(fake_->With([](auto& s) { return s.open - s.closed; }), 0);
}

TEST_F(VhostVdpaTest, OpenErrorsTellTheMend) {
  const auto refusal = [&](int error) {
    fake_->With([&](auto& s) { s.errors["OPEN"] = error; });
    return VhostVdpaDevice::Open(kNode, fake_, bounds_).status();
  };
  EXPECT_THAT(refusal(ENOENT), StatusIs(absl::StatusCode::kNotFound, HasSubstr("modprobe vhost_vdpa")));
  EXPECT_THAT(refusal(EACCES), StatusIs(absl::StatusCode::kPermissionDenied, HasSubstr("no permission to open")));
  EXPECT_THAT(refusal(EBUSY), StatusIs(absl::StatusCode::kUnavailable, HasSubstr("fuser")));
  EXPECT_THAT(refusal(EIO), StatusIs(absl::StatusCode::kUnavailable, HasSubstr("vdpa dev del")));
}

TEST_F(VhostVdpaTest, MissingNodeNamesThoseThereAre) {
  fakes::TempDir dir;
  dir.Write("vhost-vdpa-3", "");
  EXPECT_THAT(VhostVdpaDevice::Open(dir / "vhost-vdpa-4").status(),
              StatusIs(absl::StatusCode::kNotFound, HasSubstr("there is " + (dir / "vhost-vdpa-3"))));
  EXPECT_THAT(VhostVdpaDevice::Open(dir / "vhost-vdpa-3").status(),
              StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("not a vhost-vdpa device")));
}

TEST_F(VhostVdpaTest, BusyNodeNamesItsHolder) {
  fakes::TempDir dir;
  const std::string node = dir.Write("vhost-vdpa-3", "");
  const std::ifstream holder(node);
  fake_->With([](auto& s) { s.errors["OPEN"] = EBUSY; });
  EXPECT_THAT(VhostVdpaDevice::Open(node, fake_, bounds_).status(),
              StatusIs(absl::StatusCode::kUnavailable, HasSubstr("this daemon itself")));
}

TEST_F(VhostVdpaTest, OpenGivesUpOnADeviceThatDoesNotAnswer) {
  bounds_.open = absl::Milliseconds(50);
  fake_->Hang("OPEN");
  EXPECT_THAT(VhostVdpaDevice::Open(kNode, fake_, bounds_).status(),
              StatusIs(absl::StatusCode::kDeadlineExceeded, HasSubstr("no answer within 50ms")));
  fake_->Release("OPEN");
  EXPECT_TRUE(fake_->Await([](auto& s) { return s.closed == 1; })) << "the node stays open";
}

// ---- What it can do

TEST_F(VhostVdpaTest, CoversListsWhatIsMissing) {
  Open();
  EXPECT_OK(device_->Covers(kPlain, 1, 1024));
  // QEMU's own affairs.
  EXPECT_OK(device_->Covers(kPlain | Bit(kNetMtu) | Bit(kNetCtrlVq) | Bit(kNetCtrlRx) | Bit(kNetGuestAnnounce) |
                                Bit(kNetMq) | Bit(kVhostLogAll) | Bit(kAnyLayout) | Bit(kVhostUserProtocolFeatures),
                            1, 256));
  EXPECT_THAT(device_->Covers(kPlain | Bit(kNetCsum) | Bit(kInOrder), 1, 256),
              StatusIs(absl::StatusCode::kFailedPrecondition,
                       AllOf(HasSubstr(kNode), HasSubstr("lacks VIRTIO_NET_F_CSUM, VIRTIO_F_IN_ORDER"))));
  EXPECT_THAT(device_->Covers(kPlain | Bit(57), 1, 256),
              StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("bit 57")));
  EXPECT_THAT(device_->Covers(Bit(kNetMrgRxbuf), 2, 2048),
              StatusIs(absl::StatusCode::kFailedPrecondition,
                       AllOf(HasSubstr("legacy"), HasSubstr("1 queue pairs and the guest uses 2"),
                             HasSubstr("at most 1024 entries and the guest's have 2048"))));
}

TEST_F(VhostVdpaTest, PackedRingsAreRefusedEvenIfTheDeviceHasThem) {
  fake_->With([](auto& s) { s.features |= Bit(kRingPacked); });
  Open();
  EXPECT_THAT(device_->Covers(kPlain | Bit(kRingPacked), 1, 256),
              StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("VIRTIO_F_RING_PACKED")));
}

TEST_F(VhostVdpaTest, LacksOfAContractLeavesOutWhatQemuAnswers) {
  Open();
  const uint64_t contract = FindContract("everport-1")->features;
  EXPECT_THAT(FeatureNames(device_->Lacks(contract, 1)),
              IsSupersetOf({"VIRTIO_NET_F_CSUM", "VIRTIO_NET_F_HOST_TSO4", "VIRTIO_F_IN_ORDER"}));
  EXPECT_EQ(device_->Lacks(contract, 1) & (Bit(kNetMtu) | Bit(kNetMq) | Bit(kVhostLogAll) | Bit(kRingPacked)), 0u);
  EXPECT_EQ(device_->Lacks(kPlain, 1), 0u);
  EXPECT_EQ(device_->Lacks(kPlain, 2), Bit(kNetMq));
}

// ---- Starting and stopping

TEST_F(VhostVdpaTest, StartsInTheOrderThatTheKernelWants) {
  Open();
  guest_.SetUsedIndex(0, 11);
  GuestRings rings = guest_.Rings();
  rings.rings[0].avail_base = rings.rings[0].used_base = 11;
  ASSERT_TRUE(device_->Start(rings).ok());
  const uint64_t second = rings.regions[1].gpa;
  EXPECT_THAT(Calls(),
              ElementsAre("RESET", "BATCH_BEGIN", "MAP 0", "MAP " + std::to_string(second), "BATCH_END", "STATUS 1",
                          "STATUS 3", "FEATURES", "STATUS 11", "NUM 0", "BASE 0", "ADDR 0", "CALL 0", "KICK 0", "NUM 1",
                          "BASE 1", "ADDR 1", "CALL 1", "KICK 1", "CONFIG_CALL", "ENABLE 0", "ENABLE 1", "STATUS 15"));
  fake_->With([&](auto& s) {
    EXPECT_EQ(s.acked, kPlain | Bit(kAccessPlatform));
    EXPECT_EQ(s.rings[0].num, 64u);
    EXPECT_EQ(s.rings[0].base, 11u);
    EXPECT_EQ(s.rings[1].desc, rings.rings[1].desc);
    EXPECT_EQ(s.rings[1].avail, rings.rings[1].avail);
    EXPECT_EQ(s.rings[1].used, rings.rings[1].used);
    EXPECT_EQ(s.maps[second], (std::pair(rings.regions[1].size, reinterpret_cast<uint64_t>(rings.regions[1].address))));
  });
  EXPECT_EQ(Count(guest_.kick_fd(0)), 1u);
  EXPECT_EQ(Count(guest_.kick_fd(1)), 1u);
  EXPECT_EQ(Count(guest_.call_fd(1)), 1u);
}

TEST_F(VhostVdpaTest, StopReadsThePositionsResetsAndUnmaps) {
  Open();
  ASSERT_TRUE(device_->Start(guest_.Rings()).ok());
  Calls();
  GuestRings rings = guest_.Rings();
  guest_.SetUsedIndex(0, 5);
  guest_.SetUsedIndex(1, 65534);
  fake_->With([](auto& s) { s.positions = {{0, 5}, {1, 65534}}; });
  EXPECT_OK(device_->Stop(rings));
  EXPECT_THAT(Calls(),
              ElementsAre("GET_BASE 0", "GET_BASE 1", "RESET", "NO_KICK 0", "NO_CALL 0", "NO_KICK 1", "NO_CALL 1",
                          "BATCH_BEGIN", "UNMAP 0", "UNMAP " + std::to_string(rings.regions[1].gpa), "BATCH_END"));
  EXPECT_EQ(rings.rings[0].avail_base, 5);
  EXPECT_EQ(rings.rings[0].used_base, 5);
  EXPECT_EQ(rings.rings[1].avail_base, 65534);
  EXPECT_EQ(fake_->With([](auto& s) { return s.maps.size(); }), 0u);
  EXPECT_OK(device_->Start(rings));
}

TEST_F(VhostVdpaTest, SuspendsFirstWhereTheDeviceCan) {
  fake_->With([](auto& s) { s.backend_features |= 1u << 4; });
  Open();
  ASSERT_TRUE(device_->Start(guest_.Rings()).ok());
  Calls();
  GuestRings rings = guest_.Rings();
  EXPECT_OK(device_->Stop(rings));
  EXPECT_EQ(Calls().front(), "SUSPEND");
}

TEST_F(VhostVdpaTest, DescriptorsInFlightAreOpenedAgainAndCounted) {
  Open();
  ASSERT_TRUE(device_->Start(guest_.Rings()).ok());
  GuestRings rings = guest_.Rings();
  guest_.SetUsedIndex(1, 65534);
  fake_->With([](auto& s) { s.positions = {{0, 0}, {1, 3}}; });  // 5 fetched beyond the used ones
  EXPECT_THAT(device_->Stop(rings), StatusIs(absl::StatusCode::kAborted, HasSubstr("5 descriptors were in flight")));
  EXPECT_EQ(rings.rings[1].avail_base, 65534);
}

TEST_F(VhostVdpaTest, StopOfADeviceThatDoesNotRunLeavesThePositions) {
  Open();
  GuestRings rings = guest_.Rings();
  rings.rings[0].avail_base = 42;
  EXPECT_OK(device_->Stop(rings));
  EXPECT_EQ(rings.rings[0].avail_base, 42);
}

TEST_F(VhostVdpaTest, FeaturesThatTheDeviceRefusesAreNamed) {
  fake_->With([](auto& s) { s.refused_features = Bit(kNetMrgRxbuf); });
  Open();
  EXPECT_THAT(device_->Start(guest_.Rings()),
              StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("refuses the features")));
  EXPECT_EQ(fake_->With([](auto& s) { return s.maps.size(); }), 0u);
}

class VhostVdpaStepTest : public VhostVdpaTest, public ::testing::WithParamInterface<const char*> {};

TEST_P(VhostVdpaStepTest, AFailedStartLeavesNothingBehind) {
  Open();
  fake_->With([&](auto& s) { s.errors[GetParam()] = EINVAL; });
  const absl::Status status = device_->Start(guest_.Rings());
  EXPECT_FALSE(status.ok());
  EXPECT_THAT(status.message(), HasSubstr(kNode));
  fake_->With([](auto& s) {
    EXPECT_EQ(s.status, 0);
    EXPECT_EQ(s.maps.size(), 0u);
    for (const auto& [index, ring] : s.rings) EXPECT_FALSE(ring.kick || ring.call) << "ring " << index;
  });
  fake_->With([&](auto& s) { s.errors.clear(); });
  EXPECT_OK(device_->Start(guest_.Rings()));
}
INSTANTIATE_TEST_SUITE_P(Each, VhostVdpaStepTest,
                         ::testing::Values("BATCH_BEGIN", "MAP", "BATCH_END", "STATUS", "FEATURES", "NUM", "BASE",
                                           "ADDR", "CALL", "KICK", "CONFIG_CALL", "ENABLE"));

TEST_F(VhostVdpaTest, MemoryThatMayNotBeLockedSaysSo) {
  Open();
  fake_->With([&](auto& s) { s.errors["MAP"] = ENOMEM; });
  EXPECT_THAT(device_->Start(guest_.Rings()),
              StatusIs(absl::StatusCode::kResourceExhausted, HasSubstr("LimitMEMLOCK")));
}

TEST_F(VhostVdpaTest, MemoryOutsideOfWhatTheDeviceReachesIsRefused) {
  fake_->With([](auto& s) { s.last_iova = (1u << 20) - 1; });
  Open();
  EXPECT_THAT(device_->Start(guest_.Rings()),
              StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("outside of what the device reaches")));
}

TEST_F(VhostVdpaTest, NewNotifiersAreHandedOver) {
  Open();
  ASSERT_TRUE(device_->Start(guest_.Rings()).ok());
  Calls();
  guest_.RenewNotifiers(1);
  EXPECT_OK(device_->SetNotifiers(guest_.Rings()));
  EXPECT_THAT(Calls(), ElementsAre("CALL 0", "KICK 0", "CALL 1", "KICK 1"));
  EXPECT_EQ(Count(guest_.kick_fd(1)), 1u) << "a kick between the two was lost";
  fake_->With([](auto& s) { ::eventfd_write(s.rings[1].call_fd.get(), 7); });
  EXPECT_GE(Count(guest_.call_fd(1)), 7u);
}

// ---- Devices that do not answer

TEST_F(VhostVdpaTest, StopGivesUpInBoundedTimeAndTakesTheUsedIndices) {
  bounds_.stop = absl::Milliseconds(200);
  Open();
  ASSERT_TRUE(device_->Start(guest_.Rings()).ok());
  fake_->Hang("GET_BASE");
  guest_.SetUsedIndex(1, 77);
  GuestRings rings = guest_.Rings();
  const absl::Time before = absl::Now();
  EXPECT_THAT(device_->Stop(rings), StatusIs(absl::StatusCode::kDeadlineExceeded, HasSubstr("given up")));
  EXPECT_LT(absl::Now() - before, absl::Seconds(5));
  EXPECT_GE(absl::Now() - before, bounds_.stop);
  EXPECT_EQ(rings.rings[1].avail_base, 77);
  EXPECT_EQ(rings.rings[1].used_base, 77);
  EXPECT_EQ(device_->trouble(), Trouble::kError);
  EXPECT_TRUE(Readable(device_->event_fd()));
  EXPECT_THAT(device_->Start(rings), StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("given up")));
  EXPECT_EQ(fake_->With([](auto& s) { return s.closed; }), 0);
  fake_->Release("GET_BASE");
  EXPECT_TRUE(fake_->Await([](auto& s) { return s.closed == 1; })) << "the node stays open";
  EXPECT_THAT(Calls(), Not(::testing::Contains("STATUS 1").Times(2)));
}

TEST_F(VhostVdpaTest, StopOfASuspectedDeviceIsQuick) {
  bounds_.stop = absl::Seconds(30);
  bounds_.stop_in_trouble = absl::Milliseconds(50);
  Open();
  ASSERT_TRUE(device_->Start(guest_.Rings()).ok());
  fake_->Hang("GET_BASE");
  device_->Suspect();
  GuestRings rings = guest_.Rings();
  const absl::Time before = absl::Now();
  EXPECT_THAT(device_->Stop(rings), StatusIs(absl::StatusCode::kDeadlineExceeded, HasSubstr("given up")));
  EXPECT_LT(absl::Now() - before, absl::Seconds(10));
  fake_->Release("GET_BASE");
}

TEST_F(VhostVdpaTest, StopWaitsOnWhileTheDeviceStillWrites) {
  bounds_.stop = absl::Seconds(30);
  bounds_.stop_in_trouble = absl::Milliseconds(200);
  Open();
  ASSERT_TRUE(device_->Start(guest_.Rings()).ok());
  device_->Suspect();
  fake_->Hang("RESET");
  std::atomic<bool> working{true};
  std::thread device([&] {  // what a device does that is slow to hear of its reset
    uint16_t used = 0;
    while (working) guest_.SetUsedIndex(1, ++used);
  });
  std::thread release([&] {
    EXPECT_TRUE(fake_->AwaitHanging("RESET"));
    absl::SleepFor(absl::Milliseconds(400));  // past the short bound
    working = false;
    device.join();
    fake_->Release("RESET");
  });
  GuestRings rings = guest_.Rings();
  const absl::Status status = device_->Stop(rings);
  release.join();
  EXPECT_NE(status.code(), absl::StatusCode::kDeadlineExceeded) << "given up while it was alive";
  EXPECT_EQ(rings.rings[1].avail_base, guest_.used_index(1));
}

TEST_F(VhostVdpaTest, NotifiersThatAreNotTakenEndInAStop) {
  bounds_.stop = bounds_.stop_in_trouble = absl::Milliseconds(50);
  Open();
  ASSERT_TRUE(device_->Start(guest_.Rings()).ok());
  fake_->Hang("CALL");
  GuestRings rings = guest_.Rings();
  EXPECT_EQ(device_->SetNotifiers(rings).code(), absl::StatusCode::kDeadlineExceeded);
  guest_.SetUsedIndex(1, 8);
  EXPECT_EQ(device_->Stop(rings).code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_EQ(rings.rings[1].avail_base, 8);
  guest_.SetUsedIndex(1, 9);  // another path's
  EXPECT_OK(device_->Stop(rings));
  EXPECT_EQ(rings.rings[1].avail_base, 8) << "the second Stop is not about rings that this device has";
  fake_->Release("CALL");
  EXPECT_TRUE(fake_->Await([](auto& s) { return s.closed == 1; }));
}

TEST_F(VhostVdpaTest, StartIsGivenUpAndUndoneLater) {
  bounds_.start = absl::Milliseconds(50);
  Open();
  fake_->Hang("STATUS");
  EXPECT_THAT(device_->Start(guest_.Rings()), StatusIs(absl::StatusCode::kDeadlineExceeded, HasSubstr("not started")));
  EXPECT_EQ(device_->trouble(), Trouble::kError);
  fake_->Release("STATUS");
  EXPECT_TRUE(fake_->Await([](auto& s) { return s.closed == 1; }));
  EXPECT_THAT(Calls(), Not(::testing::Contains("FEATURES"))) << "it went on to start a device that was given up";
}

TEST_F(VhostVdpaTest, DestructionIsBounded) {
  bounds_.stop = absl::Milliseconds(50);
  Open();
  ASSERT_TRUE(device_->Start(guest_.Rings()).ok());
  fake_->Hang("RESET");
  const absl::Time before = absl::Now();
  device_.reset();
  EXPECT_LT(absl::Now() - before, absl::Seconds(5));
  fake_->Release("RESET");
  EXPECT_TRUE(fake_->Await([](auto& s) { return s.closed == 1; }));
}

TEST_F(VhostVdpaTest, ACloseThatHangsHoldsNobodyUp) {
  bounds_.stop = absl::Milliseconds(50);
  Open();
  fake_->Hang("CLOSE");
  const absl::Time before = absl::Now();
  device_.reset();
  EXPECT_LT(absl::Now() - before, absl::Seconds(5));
  fake_->Release("CLOSE");
  EXPECT_TRUE(fake_->Await([](auto& s) { return s.closed == 1; }));
}

// ---- Trouble

TEST_F(VhostVdpaTest, NeedsResetIsTroubleAtTheConfigInterrupt) {
  bounds_.look_every = absl::InfiniteDuration();
  Open();
  ASSERT_TRUE(device_->Start(guest_.Rings()).ok());
  EXPECT_EQ(device_->trouble(), Trouble::kNone);
  fake_->With([](auto& s) { s.status |= virtio_net::kNeedsReset; });
  fake_->SignalConfig();
  EXPECT_TRUE(AwaitTrouble(Trouble::kNeedsReset));
}

TEST_F(VhostVdpaTest, ResetBehindOurBackIsTrouble) {
  Open();
  ASSERT_TRUE(device_->Start(guest_.Rings()).ok());
  fake_->With([](auto& s) { s.status = 0; });
  EXPECT_TRUE(AwaitTrouble(Trouble::kNeedsReset));
}

TEST_F(VhostVdpaTest, LinkComesAndGoes) {
  fake_->With([](auto& s) { s.features |= Bit(virtio_net::kStatus); });
  Open();
  EXPECT_EQ(device_->trouble(), Trouble::kNone);
  fake_->With([](auto& s) { s.link = 0; });
  EXPECT_TRUE(AwaitTrouble(Trouble::kLinkDown)) << "not running either: it must not be chosen";
  fake_->With([](auto& s) { s.link = 1; });
  EXPECT_TRUE(AwaitTrouble(Trouble::kNone));
  ASSERT_TRUE(device_->Start(guest_.Rings()).ok());
  EXPECT_EQ(fake_->With([](auto& s) { return s.acked; }) & Bit(virtio_net::kStatus), Bit(virtio_net::kStatus));
  fake_->With([](auto& s) { s.link = 0; });
  fake_->SignalConfig();
  EXPECT_TRUE(AwaitTrouble(Trouble::kLinkDown));
}

TEST_F(VhostVdpaTest, RemovalIsTroubleForGood) {
  bounds_.look_every = absl::InfiniteDuration();
  Open();
  fake_->Remove();
  EXPECT_TRUE(AwaitTrouble(Trouble::kRemoved));
}

TEST_F(VhostVdpaTest, AnInputOutputErrorIsTrouble) {
  Open();
  ASSERT_TRUE(device_->Start(guest_.Rings()).ok());
  fake_->With([](auto& s) { s.errors["GET_BASE"] = EIO; });
  GuestRings rings = guest_.Rings();
  guest_.SetUsedIndex(0, 9);
  EXPECT_FALSE(device_->Stop(rings).ok());
  EXPECT_EQ(rings.rings[0].avail_base, 9);
  EXPECT_EQ(device_->trouble(), Trouble::kError);
  EXPECT_THAT(Calls(), ::testing::Contains("RESET").Times(2)) << "it was not reset";
}

// ---- Several queue pairs

class VhostVdpaMultiqueueTest : public VhostVdpaTest {
 protected:
  VhostVdpaMultiqueueTest() {
    fake_->With([](auto& s) {
      s.features |= Bit(kNetMq) | Bit(kNetCtrlVq);
      s.max_queue_pairs = 4;
      s.queues = 9;
    });
  }
  OffloadGuest two_pairs_{{.queue_pairs = 2, .ring_size = 64, .region_bytes = 1u << 20}};
};

TEST_F(VhostVdpaMultiqueueTest, TheDeviceIsToldByItsControlQueue) {
  fake_->AnswerControl(8, 0);
  Open();
  EXPECT_EQ(device_->info().max_queue_pairs, 4);
  for (int round = 0; round < 2; ++round) {
    GuestRings rings = two_pairs_.Rings();
    EXPECT_OK(device_->Start(rings));
    fake_->With([](auto& s) {
      EXPECT_EQ(s.acked & (Bit(kNetMq) | Bit(kNetCtrlVq)), Bit(kNetMq) | Bit(kNetCtrlVq));
      EXPECT_EQ(s.maps.size(), 3u);
    });
    EXPECT_OK(device_->Stop(rings));
    EXPECT_EQ(fake_->With([](auto& s) { return s.maps.size(); }), 0u);
  }
  EXPECT_THAT(fake_->control_pairs(), ElementsAre(2, 2));
}

TEST_F(VhostVdpaMultiqueueTest, OnePairNeedsNoControlQueue) {
  Open();
  EXPECT_OK(device_->Start(guest_.Rings()));
  EXPECT_EQ(fake_->With([](auto& s) { return s.acked; }) & (Bit(kNetMq) | Bit(kNetCtrlVq)), 0u);
}

TEST_F(VhostVdpaMultiqueueTest, ARefusalIsAnError) {
  fake_->AnswerControl(8, 1);
  Open();
  EXPECT_THAT(device_->Start(two_pairs_.Rings()),
              StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("refuses 2 queue pairs")));
  EXPECT_EQ(fake_->With([](auto& s) { return s.status; }), 0);
}

TEST_F(VhostVdpaMultiqueueTest, NoAnswerIsAnErrorInBoundedTime) {
  fake_->AnswerControl(8, -1);
  Open();
  EXPECT_THAT(device_->Start(two_pairs_.Rings()),
              StatusIs(absl::StatusCode::kDeadlineExceeded, HasSubstr("control queue")));
  EXPECT_EQ(fake_->With([](auto& s) { return s.maps.size(); }), 0u);
}

TEST_F(VhostVdpaMultiqueueTest, RingsThatAreNotEnabledAreLeftAlone) {
  Open();
  two_pairs_.set_enabled(2, false);
  two_pairs_.set_enabled(3, false);
  ASSERT_TRUE(device_->Start(two_pairs_.Rings()).ok());
  EXPECT_EQ(fake_->With([](auto& s) { return s.rings.size(); }), 2u);
}

class VhostVdpaNoControlQueueTest : public VhostVdpaMultiqueueTest {
 protected:
  VhostVdpaNoControlQueueTest() {
    fake_->With([](auto& s) {
      s.features &= ~(Bit(kNetMq) | Bit(kNetCtrlVq));
      s.queues = 5;
    });
  }
};

TEST_F(VhostVdpaNoControlQueueTest, ItGoesByTheRingsThatAreEnabled) {
  Open();
  EXPECT_EQ(device_->info().max_queue_pairs, 2);
  GuestRings rings = two_pairs_.Rings();
  EXPECT_OK(device_->Start(rings));
  fake_->With([&](auto& s) {
    EXPECT_EQ(s.rings.size(), 5u);
    for (const auto& [index, ring] : s.rings) EXPECT_TRUE(ring.enabled) << index;
    EXPECT_EQ(s.rings[3].desc, rings.rings[3].desc);
    EXPECT_TRUE(s.maps.contains(s.rings[4].desc)) << "a ring that the guest has not lies in memory of our own";
  });
  EXPECT_OK(device_->Stop(rings));
  EXPECT_EQ(fake_->With([](auto& s) { return s.maps.size(); }), 0u);
}

TEST_F(VhostVdpaNoControlQueueTest, AGuestThatUsesFewerIsRefused) {
  Open();
  EXPECT_THAT(device_->Start(guest_.Rings()),
              StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("no control queue to hear")));
}

TEST_F(VhostVdpaMultiqueueTest, KernelsWithoutAQueueCountAreBelievedByConfiguration) {
  fake_->With([](auto& s) { s.errors["VQS_COUNT"] = ENOTTY; });
  Open();
  EXPECT_EQ(device_->info().max_queue_pairs, 4);
}

constexpr std::array<uint8_t, 60> kFrame = {0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x52, 0x54};

TEST_F(VhostVdpaTest, AnAnnouncementGoesOutBeforeAnyGuestIsOnTheDevice) {
  fake_->TakeFrames(1);
  Open();
  EXPECT_OK(device_->Announce(kFrame));
  EXPECT_THAT(fake_->frames(), ElementsAre(std::vector<uint8_t>(kFrame.begin(), kFrame.end())));
  fake_->With([](auto& s) {
    EXPECT_EQ(s.status, 0) << "reset";
    EXPECT_TRUE(s.maps.empty());
  });
  GuestRings rings = guest_.Rings();
  EXPECT_OK(device_->Start(rings));
  EXPECT_THAT(device_->Announce(kFrame),
              StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("a guest is on it")));
  EXPECT_OK(device_->Stop(rings));
}

TEST_F(VhostVdpaTest, AnAnnouncementThatIsNotTakenLeavesTheDeviceAsItWas) {
  Open();
  EXPECT_THAT(device_->Announce(kFrame), StatusIs(absl::StatusCode::kDeadlineExceeded, HasSubstr("not taken")));
  fake_->With([](auto& s) {
    EXPECT_EQ(s.status, 0);
    EXPECT_TRUE(s.maps.empty());
    for (const auto& [index, ring] : s.rings) EXPECT_FALSE(ring.kick || ring.call) << index;
  });
  GuestRings rings = guest_.Rings();
  EXPECT_OK(device_->Start(rings));
  EXPECT_OK(device_->Stop(rings));
}

TEST_F(VhostVdpaNoControlQueueTest, AnnouncingEnablesEveryRing) {
  fake_->TakeFrames(1);
  Open();
  EXPECT_OK(device_->Announce(kFrame));
  EXPECT_EQ(fake_->frames().size(), 1u);
  fake_->With([](auto& s) {
    EXPECT_EQ(s.rings.size(), 5u);
    EXPECT_NE(s.rings[0].desc, s.rings[1].desc) << "what is to be sent is not room for what comes";
  });
}

TEST(FindFreeIovaTest, LiesBesideTheGuestsMemory) {
  using Regions = std::vector<VhostVdpaPlan::Region>;
  const Regions pc = {{0, 0xa0000, nullptr}, {0x100000, 0x7ff00000, nullptr}, {1ull << 32, 1ull << 30, nullptr}};
  EXPECT_EQ(*FindFreeIova(pc, 0, UINT64_MAX, 0x4000), (1ull << 32) + (1ull << 30));
  EXPECT_EQ(*FindFreeIova(pc, 0, (1ull << 32) + (1ull << 30), 0x4000), 0x80000000u) << "the hole below 4 GiB";
  EXPECT_EQ(*FindFreeIova(pc, 0, 0x7fffffff, 0x4000), 0xa0000u);
  EXPECT_FALSE(FindFreeIova({{0, 1ull << 30, nullptr}}, 0, (1ull << 30) - 1, 0x4000).ok());
}

}  // namespace
}  // namespace everport
