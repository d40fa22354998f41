// Own profiles: [[contract]] tables.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

#include "absl/strings/str_cat.h"
#include "backend/config/config.h"

namespace everport {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr char kPort[] =
    "[[port]]\nname = \"vm1\"\nsocket = \"/s\"\ncontract = \"mine-1\"\n[[port.uplink]]\nkind = \"tap\"\ndevice = "
    "\"t\"\n";

std::string Refusal(const std::string& toml) {
  const auto config = ParseConfig(toml, "f");
  return config.ok() ? "accepted" : std::string(config.status().message());
}
// A profile mine-1 whose further keys begin on line 3.
std::string With(const std::string& keys) {
  return absl::StrCat("[[contract]]\nname = \"mine-1\"\n", keys, "\n");
}

TEST(OwnContract, IsABuiltInOneWithSomethingTakenAway) {
  const auto config = ParseConfig(absl::StrCat(With("without = [\"VIRTIO_F_RING_PACKED\", \"VIRTIO_F_IN_ORDER\"]\n"
                                                    "max_mtu = 4000\nmax_queue_pairs = 2\nmax_ring_size = 1024"),
                                               kPort),
                                  "f");
  ASSERT_TRUE(config.ok()) << config.status();
  FeatureContract wanted = *FindContract("everport-1");
  wanted.name = "mine-1";
  wanted.features &= ~(uint64_t{1} << kRingPacked | uint64_t{1} << kInOrder);
  wanted.max_mtu = 4000;
  wanted.max_queue_pairs = 2;
  wanted.max_ring_size = 1024;
  EXPECT_EQ(*config->contracts.Find("mine-1"), wanted);
  EXPECT_THAT(config->contracts.Names(), ElementsAre("everport-1", "minimal-1", "mine-1"));
  EXPECT_EQ(config->ports[0].contract, "mine-1");
}

TEST(OwnContract, HasItsBasesValuesWhereNothingIsSaid) {
  FeatureContract wanted = *FindContract("minimal-1");
  wanted.name = "mine-1";
  EXPECT_EQ(*ParseConfig(With("base = \"minimal-1\""), "f")->contracts.Find("mine-1"), wanted);
}

TEST(OwnContract, WithoutMqHasOneQueuePair) {
  EXPECT_EQ(ParseConfig(With("without = [\"VIRTIO_NET_F_MQ\"]"), "f")->contracts.Find("mine-1")->max_queue_pairs, 1);
  EXPECT_EQ(Refusal(With("without = [\"VIRTIO_NET_F_MQ\"]\nmax_queue_pairs = 2")),
            "f:4: contract[0].max_queue_pairs: 2 needs VIRTIO_NET_F_MQ, which is not offered; use 1");
}

TEST(OwnContract, LimitsPortsThatHaveIt) {
  EXPECT_EQ(Refusal(absl::StrCat(With("max_mtu = 1400"), kPort)),
            "f:4: port[0].mtu: 1500 is more than contract mine-1 has; use at most 1400 or another contract");
  EXPECT_EQ(Refusal(kPort),
            "f:4: port[0].contract: \"mine-1\" is not a feature contract; use one of everport-1, minimal-1");
}

TEST(OwnContract, NamesAreVersionedAndNobodyElses) {
  const auto named = [](const std::string& name) { return Refusal("[[contract]]\nname = \"" + name + "\"\n"); };
  EXPECT_EQ(named("mine"),
            "f:2: contract[0].name: \"mine\" is not a contract's name; use letters, digits, '_', '.' and '-', at most "
            "63, with the version as -NUMBER at the end, for example mine-1");
  for (const char* name : {"everport-1", "minimal-1", "everport-2"}) {
    EXPECT_EQ(named(name), absl::StrCat("f:2: contract[0].name: \"", name,
                                        "\" is everport's own, or that of a later version; give the profile another "
                                        "name, for example mine-1"));
  }
  EXPECT_EQ(Refusal("[[contract]]\nmax_mtu = 1500\n"),
            "f:1: contract[0].name: is missing; give the profile a name, for example mine-1");
  EXPECT_EQ(Refusal(absl::StrCat(With(""), With(""))),
            "f:5: contract[1].name: \"mine-1\" is already the name of another [[contract]]; give one of them another");
}

TEST(OwnContract, MandatoryFeaturesStay) {
  for (const char* feature : {"VIRTIO_F_VERSION_1", "VHOST_F_LOG_ALL", "VHOST_USER_F_PROTOCOL_FEATURES",
                              "VIRTIO_NET_F_MRG_RXBUF", "VIRTIO_F_ANY_LAYOUT"}) {
    EXPECT_EQ(Refusal(With(absl::StrCat("without = [\"", feature, "\"]"))),
              absl::StrCat("f:3: contract[0].without[0]: ", feature,
                           " cannot be taken out: everport serves and migrates no guest without it; remove it here"));
  }
}

TEST(OwnContract, WhatCannotBeTakenOutIsNamed) {
  EXPECT_THAT(
      Refusal(With("without = [\"MRG_RXBUF\"]")),
      HasSubstr("f:3: contract[0].without[0]: \"MRG_RXBUF\" is not a feature; everport-1 offers VIRTIO_NET_F_CSUM"));
  EXPECT_EQ(Refusal(With("base = \"minimal-1\"\nwithout = [\"VIRTIO_NET_F_MQ\"]")),
            "f:4: contract[0].without[0]: VIRTIO_NET_F_MQ is not offered by minimal-1; remove it here");
  EXPECT_EQ(Refusal(With("without = [\"VIRTIO_NET_F_MQ\", \"VIRTIO_NET_F_MQ\"]")),
            "f:3: contract[0].without[1]: VIRTIO_NET_F_MQ is listed twice; remove one of them");
  EXPECT_EQ(Refusal(With("without = [\"VIRTIO_NET_F_CSUM\"]")),
            "f:3: contract[0].without: VIRTIO_NET_F_HOST_TSO4 needs VIRTIO_NET_F_CSUM, which is not offered; take both "
            "out, or neither");
}

TEST(OwnContract, EachFaultIsTold) {
  EXPECT_THAT(Refusal("[[contract]]\nname = \"mine\"\nwithout = [\"VIRTIO_NET_F_CSUM\", \"X\"]\nmax_mtu = 1\n"),
              AllOf(HasSubstr("f:2: contract[0].name: "), HasSubstr("\nf:3: contract[0].without[1]: \"X\""),
                    HasSubstr("\nf:4: contract[0].max_mtu: 1 is")));
}

TEST(OwnContract, WrongTypesAndRangesAreRefused) {
  EXPECT_THAT(Refusal("contract = 1\n"), HasSubstr("f:1: contract: is the integer 1 where a list of tables is wanted"));
  EXPECT_THAT(Refusal(With("without = \"VIRTIO_NET_F_MQ\"")), HasSubstr("f:3: contract[0].without: is the string"));
  EXPECT_THAT(Refusal(With("without = [7]")), HasSubstr("f:3: contract[0].without[0]: is the integer 7"));
  EXPECT_THAT(Refusal(With("features = []")), HasSubstr("f:3: contract[0].features: unknown key"));
  EXPECT_THAT(Refusal(With("base = \"mine-0\"")),
              HasSubstr("f:3: contract[0].base: \"mine-0\" is not a built-in contract"));
  EXPECT_EQ(Refusal(With("max_mtu = 9217")), "f:3: contract[0].max_mtu: 9217 is out of range; use 68 to 9216");
  EXPECT_EQ(Refusal(With("base = \"minimal-1\"\nmax_mtu = 1501")),
            "f:4: contract[0].max_mtu: 1501 is out of range; use 68 to 1500");
  EXPECT_EQ(Refusal(With("max_queue_pairs = 0")), "f:3: contract[0].max_queue_pairs: 0 is out of range; use 1 to 16");
  EXPECT_EQ(Refusal(With("max_ring_size = 128")),
            "f:3: contract[0].max_ring_size: 128 is out of range; use 256 to 32768");
}

TEST(OwnContract, APortOfAFaultyProfileIsNotBlamedForIt) {
  EXPECT_EQ(Refusal(absl::StrCat(With("max_mtu = 1"), kPort)),
            "f:3: contract[0].max_mtu: 1 is out of range; use 68 to 9216");
}

TEST(OwnContract, IsKeptAsItIsWhileAPortHasIt) {
  const Config before = *ParseConfig(absl::StrCat(With(""), kPort), "f");
  const auto kept = [&](const Config& after) {
    return std::string(CheckContractsKept(before.ports, before.contracts, after.ports, after.contracts).message());
  };
  EXPECT_EQ(kept(before), "");
  Config changed = *ParseConfig(absl::StrCat(With("max_mtu = 4000"), kPort), "f");
  EXPECT_EQ(kept(changed),
            "contract mine-1 is another than before, and port vm1 has it, whose guest relies on what it was offered; "
            "leave it as it was, and give the changed one a new name");
  Config gone = changed;
  gone.contracts = ContractSet();
  EXPECT_THAT(kept(gone), HasSubstr("contract mine-1 is gone, and port vm1 has it"));
  changed.ports[0].contract = "everport-1";
  EXPECT_EQ(kept(changed), "");
  changed.ports.clear();
  EXPECT_EQ(kept(changed), "");
}

TEST(OwnContract, IsNotAskedForWhereItIsNotKnown) {
  const char* const json = R"({"name":"vm1","socket":"/s","contract":"mine-1","uplink":[{"kind":"tap","device":"t"}]})";
  EXPECT_FALSE(PortFromJson(json).ok());
  EXPECT_EQ(PortFromJson(json, nullptr)->contract, "mine-1");
}

}  // namespace
}  // namespace everport
