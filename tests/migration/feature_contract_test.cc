#include "migration/feature_contract.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "backend/vhost_user/message.h"

namespace everport {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

uint64_t Bit(unsigned bit) {
  return uint64_t{1} << bit;
}

// A published contract never changes. If this test fails, add a new contract ("everport-2") instead.
TEST(FeatureContract, PublishedContractsAreFrozen) {
  EXPECT_EQ(*FindContract("everport-1"), (FeatureContract{"everport-1", 0xd7c66998b, 0x1203f, 9216, 16, 32768}));
  EXPECT_EQ(*FindContract("minimal-1"), (FeatureContract{"minimal-1", 0x14c008000, 0x1203f, 1500, 1, 32768}));
  EXPECT_THAT(ContractNames(), ElementsAre("everport-1", "minimal-1"));
}

TEST(FeatureContract, UnknownNameIsNotFoundAndNamesThoseThereAre) {
  const auto contract = FindContract("everport-9");
  EXPECT_TRUE(absl::IsNotFound(contract.status()));
  EXPECT_EQ(std::string(contract.status().message()),
            "\"everport-9\" is not a feature contract; use one of everport-1, minimal-1");
}

TEST(FeatureContract, ProtocolBitsAreThoseOfTheMessageHeader) {
  using namespace vhost_user;  // NOLINT(build/namespaces)
  const uint64_t offered = Bit(kProtocolMq) | Bit(kProtocolLogShmfd) | Bit(kProtocolRarp) | Bit(kProtocolReplyAck) |
                           Bit(kProtocolMtu) | Bit(kProtocolBackendReq) | Bit(kProtocolResetDevice) |
                           Bit(kProtocolStatus);
  for (const std::string& name : ContractNames()) EXPECT_EQ(FindContract(name)->protocol_features, offered) << name;
  const std::pair<unsigned, const char*> names[] = {{kProtocolMq, "MQ"},
                                                    {kProtocolLogShmfd, "LOG_SHMFD"},
                                                    {kProtocolRarp, "RARP"},
                                                    {kProtocolReplyAck, "REPLY_ACK"},
                                                    {kProtocolMtu, "MTU"},
                                                    {kProtocolBackendReq, "BACKEND_REQ"},
                                                    {kProtocolConfig, "CONFIG"},
                                                    {kProtocolInflightShmfd, "INFLIGHT_SHMFD"},
                                                    {kProtocolResetDevice, "RESET_DEVICE"},
                                                    {kProtocolConfigureMemSlots, "CONFIGURE_MEM_SLOTS"},
                                                    {kProtocolStatus, "STATUS"}};
  for (const auto& [bit, name] : names) {
    EXPECT_EQ(ProtocolFeatureName(bit), name);
    EXPECT_EQ(ProtocolFeatureBit(name), bit);
  }
}

TEST(FeatureContract, BuiltInOnesPassTheRulesOfOwnOnesButForTheName) {
  for (FeatureContract contract : BuiltInContracts().all()) {
    EXPECT_FALSE(FindContractFault(contract)) << contract.name;
    EXPECT_EQ(FindProfileFault(contract)->field, "name");
    contract.name = "mine-1";
    EXPECT_FALSE(FindProfileFault(contract));
  }
}

TEST(FeatureContract, ProfilesKeepTheMandatoryFeaturesAndOurLimits) {
  FeatureContract profile = *FindContract("everport-1");
  const auto fault_with = [&](auto change) {
    FeatureContract changed = profile;
    changed.name = "mine-1";
    change(changed);
    const auto fault = FindProfileFault(changed);
    return fault ? fault->field + ": " + fault->text : "none";
  };
  for (unsigned bit : {kVersion1, kAnyLayout, kNetMrgRxbuf, kVhostLogAll, kVhostUserProtocolFeatures}) {
    EXPECT_THAT(fault_with([&](FeatureContract& c) { c.features &= ~Bit(bit); }),
                HasSubstr("features: lacks " + FeatureName(bit)));
  }
  EXPECT_THAT(fault_with([](FeatureContract& c) { c.protocol_features = 0; }),
              HasSubstr("protocol_features: lacks MQ"));
  EXPECT_THAT(fault_with([](FeatureContract& c) { c.max_mtu = 9217; }), HasSubstr("max_mtu: 9217 is out of range"));
  EXPECT_THAT(fault_with([](FeatureContract& c) { c.max_queue_pairs = 17; }), HasSubstr("max_queue_pairs: 17"));
  EXPECT_THAT(fault_with([](FeatureContract& c) { c.max_ring_size = 255; }), HasSubstr("use 256 to 32768"));
}

TEST(FeatureContract, NamesOfOursAndOfLaterVersionsAreReserved) {
  for (const char* name : {"everport-1", "everport-77", "minimal-2"}) EXPECT_TRUE(ReservedContractName(name)) << name;
  for (const char* name : {"mine-1", "everport", "everport-x-1", "my-everport-1"})
    EXPECT_FALSE(ReservedContractName(name)) << name;
  EXPECT_TRUE(IsBuiltInContract("minimal-1"));
  EXPECT_FALSE(IsBuiltInContract("minimal-2"));
}

TEST(FeatureContract, EveryContractCanMigrateAndFitsOurLimits) {
  for (const std::string& name : ContractNames()) {
    const FeatureContract contract = *FindContract(name);
    EXPECT_TRUE(contract.features & Bit(kVhostLogAll)) << name;
    EXPECT_TRUE(contract.features & Bit(kVhostUserProtocolFeatures)) << name;
    EXPECT_LE(contract.max_queue_pairs, vhost_user::kMaxQueuePairs) << name;
    for (const std::string& feature : FeatureNames(contract.features)) {
      EXPECT_THAT(feature, ::testing::Not(HasSubstr("bit "))) << name << " offers what everport has no name for";
    }
  }
}

// Virtio 1.2, 5.1.3.1: which feature needs which.
TEST(FeatureContract, EveryContractKeepsVirtiosFeatureDependencies) {
  const std::pair<unsigned, unsigned> needs[] = {{kNetGuestTso4, kNetGuestCsum}, {kNetGuestTso6, kNetGuestCsum},
                                                 {kNetHostTso4, kNetCsum},       {kNetHostTso6, kNetCsum},
                                                 {kNetCtrlRx, kNetCtrlVq},       {kNetGuestAnnounce, kNetCtrlVq},
                                                 {kNetMq, kNetCtrlVq},           {kRingPacked, kVersion1}};
  for (const std::string& name : ContractNames()) {
    const uint64_t features = FindContract(name)->features;
    for (const auto& [feature, needed] : needs) {
      EXPECT_TRUE(!(features & Bit(feature)) || (features & Bit(needed))) << name << ": " << FeatureName(feature);
    }
  }
}

TEST(FeatureContract, OnlyContractsWithMqHaveMoreThanOneQueuePair) {
  for (const std::string& name : ContractNames()) {
    const FeatureContract contract = *FindContract(name);
    EXPECT_EQ(contract.max_queue_pairs > 1, (contract.features & Bit(kNetMq)) != 0) << name;
  }
}

TEST(FeatureName, IsTheSpecificationsName) {
  EXPECT_EQ(FeatureName(15), "VIRTIO_NET_F_MRG_RXBUF");
  EXPECT_EQ(FeatureName(26), "VHOST_F_LOG_ALL");
  EXPECT_EQ(FeatureName(34), "VIRTIO_F_RING_PACKED");
  EXPECT_EQ(FeatureName(63), "bit 63");
}

TEST(FeatureNames, AreLowestFirstAndCoverUnknownBits) {
  EXPECT_THAT(FeatureNames(Bit(0) | Bit(32) | Bit(63)),
              ElementsAre("VIRTIO_NET_F_CSUM", "VIRTIO_F_VERSION_1", "bit 63"));
  EXPECT_TRUE(FeatureNames(0).empty());
}

}  // namespace
}  // namespace everport
