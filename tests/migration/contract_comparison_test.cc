#include "migration/contract_comparison.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <boost/json/serialize.hpp>

namespace everport {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::Field;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

uint64_t Bit(unsigned bit) {
  return uint64_t{1} << bit;
}

// everport-1's features under a name of its own.
FeatureContract Mine() {
  FeatureContract mine = *FindContract("everport-1");
  mine.name = "mine-1";
  return mine;
}
// A running guest that has negotiated this besides the least.
GuestNeeds Running(uint64_t features = 0) {
  return {.mtu = 1500, .queue_pairs = 1, .features = Bit(kVersion1) | Bit(kNetMrgRxbuf) | features, .ring_size = 256};
}

auto Finding(const std::string& field, bool breaks) {
  return AllOf(Field(&ContractFinding::field, field), Field(&ContractFinding::breaks, breaks));
}

TEST(CompareContracts, TheSameIsNoFinding) {
  for (const FeatureContract& contract : BuiltInContracts().all())
    EXPECT_THAT(CompareContracts(contract, {}, contract), IsEmpty());
}

TEST(CompareContracts, OneNameStandsForTheSameFeatures) {
  FeatureContract there = Mine();
  there.features &= ~Bit(kInOrder);
  const auto lost = CompareContracts(Mine(), Running(), there);  // the guest does not even use it
  EXPECT_THAT(lost, ElementsAre(Finding("name", true), Finding("features.VIRTIO_F_IN_ORDER", true)));
  EXPECT_THAT(lost[0].why, HasSubstr("contract mine-1 differs between the hosts"));
  EXPECT_EQ(lost[1].here, "offered");
  EXPECT_EQ(lost[1].there, "not offered");
  const auto gained = CompareContracts(there, Running(), Mine());
  EXPECT_THAT(gained, ElementsAre(Finding("name", true), Finding("features.VIRTIO_F_IN_ORDER", true)));
  EXPECT_FALSE(Compatible(gained));
}

TEST(CompareContracts, OneNameWithOtherLimitsIsNotedWhereTheyCoverThePort) {
  FeatureContract there = Mine();
  there.max_mtu = 1500;
  const auto findings = CompareContracts(Mine(), Running(), there);
  EXPECT_THAT(findings, ElementsAre(Finding("name", false), Finding("max_mtu", false)));
  EXPECT_THAT(findings[0].why, HasSubstr("contract mine-1 differs between the hosts, though not in its features"));
  EXPECT_TRUE(Compatible(findings));
}

TEST(CompareContracts, ABuiltInOneThatDiffersIsMendedByAnUpgrade) {
  FeatureContract there = *FindContract("everport-1");
  there.features &= ~Bit(kInOrder);
  EXPECT_THAT(CompareContracts(*FindContract("everport-1"), Running(), there)[0].mend,
              HasSubstr("one version of everport"));
  EXPECT_THAT(MissingContract("everport-1", {"minimal-1"}).mend, HasSubstr("upgrade everport there"));
  EXPECT_THAT(MissingContract("mine-1", {"minimal-1"}).mend, HasSubstr("[[contract]] mine-1"));
  EXPECT_TRUE(MissingContract("mine-1", {}).breaks);
}

TEST(CompareContracts, AnotherContractBreaksWhatTheGuestUses) {
  FeatureContract there = Mine();
  there.name = "other-1";
  there.features &= ~Bit(kNetGuestTso4);
  const auto used = CompareContracts(Mine(), Running(Bit(kNetGuestTso4)), there);
  EXPECT_THAT(used, ElementsAre(Finding("name", false), Finding("features.VIRTIO_NET_F_GUEST_TSO4", true)));
  EXPECT_EQ(used[1].here, "negotiated");
  EXPECT_THAT(used[1].why, HasSubstr("QEMU there refuses the guest's state"));
  EXPECT_NE(used[1].mend, "");
  const auto unused = CompareContracts(Mine(), Running(), there);
  EXPECT_THAT(unused, ElementsAre(Finding("name", false), Finding("features.VIRTIO_NET_F_GUEST_TSO4", false)));
}

TEST(CompareContracts, AGuestThatHasNotStartedMayYetTakeAllThatIsOffered) {
  FeatureContract there = Mine();
  there.name = "other-1";
  there.features &= ~Bit(kNetGuestTso4);
  const auto findings = CompareContracts(Mine(), {}, there);
  EXPECT_THAT(findings, ElementsAre(Finding("name", false), Finding("features.VIRTIO_NET_F_GUEST_TSO4", true)));
  EXPECT_THAT(findings[1].why, HasSubstr("has not started"));
}

TEST(CompareContracts, AnotherContractThatOffersMoreIsNoted) {
  const auto findings = CompareContracts(*FindContract("minimal-1"), Running(), Mine());
  EXPECT_TRUE(Compatible(findings));
  for (const ContractFinding& finding : findings) EXPECT_NE(finding.why, "") << finding.field;
}

TEST(CompareContracts, LimitsBreakWhereThePortExceedsThem) {
  FeatureContract there = Mine();
  there.name = "other-1";
  there.max_mtu = 4000;
  there.max_queue_pairs = 4;
  there.max_ring_size = 512;
  GuestNeeds needs = Running();
  needs.mtu = 4000;
  needs.queue_pairs = 4;
  needs.ring_size = 512;
  EXPECT_THAT(CompareContracts(Mine(), needs, there),
              ElementsAre(Finding("name", false), Finding("max_mtu", false), Finding("max_queue_pairs", false),
                          Finding("max_ring_size", false)));
  needs.mtu = 4001;
  needs.queue_pairs = 5;
  needs.ring_size = 1024;
  const auto findings = CompareContracts(Mine(), needs, there);
  EXPECT_THAT(findings, ElementsAre(Finding("name", false), Finding("max_mtu", true), Finding("max_queue_pairs", true),
                                    Finding("max_ring_size", true)));
  EXPECT_EQ(findings[1].here, "9216, used 4001");
  EXPECT_EQ(findings[1].there, "4000");
  EXPECT_THAT(findings[3].why, HasSubstr("the keeper there refuses rings of that size"));
}

TEST(CompareContracts, RingSizesOfAGuestThatHasNotStartedAreSaidToBeUnknown) {
  FeatureContract there = Mine();
  there.max_ring_size = 512;
  const auto findings = CompareContracts(Mine(), {}, there);
  EXPECT_THAT(findings, ElementsAre(Finding("name", false), Finding("max_ring_size", false)));
  EXPECT_THAT(findings[1].why, HasSubstr("is not known"));
}

TEST(CompareContracts, ProtocolFeaturesBreakOnlyWhatNeedsThem) {
  FeatureContract there = Mine();
  there.protocol_features &= ~(Bit(kContractProtocolMq) | Bit(kContractProtocolLogShmfd));
  EXPECT_THAT(CompareContracts(Mine(), Running(), there),
              ElementsAre(Finding("name", false), Finding("protocol_features.MQ", false),
                          Finding("protocol_features.LOG_SHMFD", false)));
  GuestNeeds two = Running();
  two.queue_pairs = 2;
  EXPECT_FALSE(Compatible(CompareContracts(Mine(), two, there)));
}

TEST(CompareContracts, WithoutPostcopyThereTheGuestGoesTheOrdinaryWay) {
  const auto findings = CompareContracts(WithPostcopy(Mine(), true), Running(), Mine());
  EXPECT_THAT(findings, ElementsAre(Finding("protocol_features.PAGEFAULT", false)));
  EXPECT_THAT(findings[0].why, HasSubstr("cannot get there by post-copy"));
  EXPECT_TRUE(Compatible(findings));
  EXPECT_THAT(CompareContracts(Mine(), Running(), WithPostcopy(Mine(), true)),
              ElementsAre(Finding("protocol_features.PAGEFAULT", false)));
  EXPECT_TRUE(CompareContracts(Mine(), Running(), WithPostcopy(Mine(), false)).empty());
}

TEST(CompareContracts, AMoveThatNobodyAnnouncesBreaks) {
  FeatureContract there = Mine();
  there.protocol_features &= ~Bit(kContractProtocolRarp);
  EXPECT_TRUE(Compatible(CompareContracts(Mine(), Running(Bit(kNetGuestAnnounce)), there)));
  const auto findings = CompareContracts(Mine(), Running(), there);
  EXPECT_THAT(findings,
              ElementsAre(Finding("name", false), Finding("protocol_features.RARP", false), Finding("announce", true)));
}

TEST(ContractVerdictTest, IsWhatTheApiAnswers) {
  EXPECT_EQ(boost::json::serialize(ContractVerdict("mine-1", {{"max_mtu", "9216", "1500", true, "why", "mend"}})),
            R"({"compatible":false,"contract":"mine-1","findings":[{"field":"max_mtu","here":"9216","there":"1500",)"
            R"("breaks":true,"why":"why","mend":"mend"}]})");
}

}  // namespace
}  // namespace everport
