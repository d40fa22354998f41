// A guest whose rings lie: chains that loop, lie about lengths, point outside memory. What it sends is counted and
// dropped; the daemon lives, the ports beside it lose nothing, and the same port serves the next guest.
#include <gtest/gtest.h>

#include <cstring>
#include <functional>

#include "tests/component/bystanders.h"
#include "tests/component/stack.h"
#include "tests/fakes/packed_ring.h"
#include "tests/fakes/split_ring.h"
#include "tests/fakes/traffic.h"

namespace everport::component {
namespace {

using fakes::FrontEnd;
using fakes::FrontEndOptions;
using fakes::GuestMemory;
using fakes::kDescIndirect;
using fakes::kDescNext;
using fakes::kDescWrite;
using fakes::NetHeader;
using fakes::PackedDesc;
using fakes::PackedRing;
using fakes::SplitDesc;
using fakes::SplitRing;

constexpr uint16_t kRingSize = 256;
constexpr uint64_t kOutside = 1ull << 45;  // beyond every region

struct Attack {
  const char* name;
  bool packed;
  unsigned ring;  // 0: the guest's receive ring, 1: its transmit ring
  // buffer: 64 KiB of good memory.
  std::function<void(FrontEnd&, const GuestMemory::Block& buffer)> act;
};

SplitRing& Split(FrontEnd& end, unsigned ring) {
  return static_cast<SplitRing&>(end.ring(ring));
}
PackedRing& Packed(FrontEnd& end, unsigned ring) {
  return static_cast<PackedRing&>(end.ring(ring));
}

// One split descriptor at slot 0, made available.
void OneSplit(FrontEnd& end, unsigned ring, const SplitDesc& desc) {
  Split(end, ring).descs()[0] = desc;
  Split(end, ring).RawAvail(0);
}
// Chains in an indirect table at the buffer's start, with `bytes` as the table's length.
void IndirectSplit(FrontEnd& end, unsigned ring, const GuestMemory::Block& buffer, std::vector<SplitDesc> table,
                   uint32_t bytes) {
  std::memcpy(buffer.host, table.data(), table.size() * sizeof(SplitDesc));
  OneSplit(end, ring, {buffer.gpa, bytes, kDescIndirect, 0});
}
void IndirectPacked(FrontEnd& end, unsigned ring, const GuestMemory::Block& buffer, std::vector<PackedDesc> table,
                    uint32_t bytes) {
  std::memcpy(buffer.host, table.data(), table.size() * sizeof(PackedDesc));
  Packed(end, ring).RawAdd({buffer.gpa, bytes}, 7, kDescIndirect);
}
// A well-formed chain whose virtio-net header lies.
void LyingHeader(FrontEnd& end, const NetHeader& header) {
  std::vector<uint8_t> frame(200, 0x45);
  frame[12] = 0x08;  // IPv4
  frame[13] = 0;
  frame[23] = 6;  // TCP
  end.tx(0).Send(frame, {}, header);
  end.FlushTx(0);
}

void PrintTo(const Attack* attack, std::ostream* out) {
  *out << attack->name;
}

const Attack kAttacks[] = {
    // Split, transmit.
    {"SplitChainOfOneThatLoops", false, 1,
     [](FrontEnd& e, auto& b) {
       OneSplit(e, 1, {b.gpa, 100, kDescNext, 0});
     }},
    {"SplitChainOfTwoThatLoops", false, 1,
     [](FrontEnd& e, auto& b) {
       Split(e, 1).descs()[1] = {b.gpa, 100, kDescNext, 0};
       OneSplit(e, 1, {b.gpa, 100, kDescNext, 1});
     }},
    {"SplitNextOutOfRange", false, 1,
     [](FrontEnd& e, auto& b) {
       OneSplit(e, 1, {b.gpa, 100, kDescNext, 5000});
     }},
    {"SplitHeadOutOfRange", false, 1, [](FrontEnd& e, auto&) { Split(e, 1).RawAvail(60000); }},
    {"SplitAddressOutsideMemory", false, 1,
     [](FrontEnd& e, auto&) {
       OneSplit(e, 1, {kOutside, 100, 0, 0});
     }},
    {"SplitAddressThatWraps", false, 1,
     [](FrontEnd& e, auto&) {
       OneSplit(e, 1, {~uint64_t{0} - 10, 100, 0, 0});
     }},
    {"SplitBufferRunsOutOfItsRegion", false, 1,
     [](FrontEnd& e, auto&) {
       OneSplit(e, 1, {e.memory().Table()[0].memory_size - 50, 200, 0, 0});
     }},
    {"SplitLengthOfFourGigabytes", false, 1,
     [](FrontEnd& e, auto& b) {
       OneSplit(e, 1, {b.gpa, 0xffffffff, 0, 0});
     }},
    {"SplitLengthZero", false, 1,
     [](FrontEnd& e, auto& b) {
       OneSplit(e, 1, {b.gpa, 0, 0, 0});
     }},
    {"SplitShorterThanTheHeader", false, 1,
     [](FrontEnd& e, auto& b) {
       OneSplit(e, 1, {b.gpa, 5, 0, 0});
     }},
    {"SplitHeaderAlone", false, 1,
     [](FrontEnd& e, auto& b) {
       OneSplit(e, 1, {b.gpa, 12, 0, 0});
     }},
    {"SplitAvailIndexJumps", false, 1,
     [](FrontEnd& e, auto&) { Split(e, 1).RawAvailIndex(static_cast<uint16_t>(Split(e, 1).avail_index() + 5000)); }},
    {"SplitIndirectInIndirect", false, 1,
     [](FrontEnd& e, auto& b) {
       IndirectSplit(e, 1, b, {{b.gpa + 4096, 16, kDescIndirect, 0}}, 16);
     }},
    {"SplitIndirectTableTooLong", false, 1,
     [](FrontEnd& e, auto& b) {
       IndirectSplit(e, 1, b, {{b.gpa + 4096, 100, 0, 0}}, 16u << 20);
     }},
    {"SplitIndirectTableOfOddLength", false, 1,
     [](FrontEnd& e, auto& b) {
       IndirectSplit(e, 1, b, {{b.gpa + 4096, 100, kDescNext, 1}}, 17);
     }},
    {"SplitIndirectTableEmpty", false, 1,
     [](FrontEnd& e, auto& b) {
       IndirectSplit(e, 1, b, {{b.gpa + 4096, 100, 0, 0}}, 0);
     }},
    {"SplitIndirectTableOutside", false, 1,
     [](FrontEnd& e, auto&) {
       OneSplit(e, 1, {kOutside, 64, kDescIndirect, 0});
     }},
    {"SplitIndirectTableThatLoops", false, 1,
     [](FrontEnd& e, auto& b) {
       IndirectSplit(e, 1, b, {{b.gpa + 4096, 100, kDescNext, 0}}, 16);
     }},
    {"SplitIndirectNextOutOfRange", false, 1,
     [](FrontEnd& e, auto& b) {
       IndirectSplit(e, 1, b, {{b.gpa + 4096, 100, kDescNext, 999}}, 16);
     }},
    // The header's promises.
    {"HeaderGsoWithoutSize", false, 1,
     [](FrontEnd& e, auto&) {
       LyingHeader(e, {.flags = 1, .gso_type = 1, .hdr_len = 54, .gso_size = 0, .csum_start = 34, .csum_offset = 16});
     }},
    {"HeaderChecksumBehindTheFrame", false, 1,
     [](FrontEnd& e, auto&) { LyingHeader(e, {.flags = 1, .csum_start = 60000, .csum_offset = 16}); }},
    {"HeaderGsoOfAnUnknownType", false, 1,
     [](FrontEnd& e, auto&) {
       LyingHeader(e,
                   {.flags = 1, .gso_type = 0x7f, .hdr_len = 54, .gso_size = 100, .csum_start = 34, .csum_offset = 16});
     }},
    {"HeaderLongerThanTheFrame", false, 1,
     [](FrontEnd& e, auto&) {
       LyingHeader(e,
                   {.flags = 1, .gso_type = 1, .hdr_len = 65535, .gso_size = 1, .csum_start = 34, .csum_offset = 16});
     }},
    // Split, receive.
    {"SplitReceiveOutsideMemory", false, 0,
     [](FrontEnd& e, auto&) {
       OneSplit(e, 0, {kOutside, 2048, kDescWrite, 0});
     }},
    {"SplitReceiveLengthZero", false, 0,
     [](FrontEnd& e, auto& b) {
       OneSplit(e, 0, {b.gpa, 0, kDescWrite, 0});
     }},
    {"SplitReceiveShorterThanTheHeader", false, 0,
     [](FrontEnd& e, auto& b) {
       OneSplit(e, 0, {b.gpa, 3, kDescWrite, 0});
     }},
    {"SplitReceiveChainThatLoops", false, 0,
     [](FrontEnd& e, auto& b) {
       OneSplit(e, 0, {b.gpa, 20, kDescNext | kDescWrite, 0});
     }},
    {"SplitReceiveHeadOutOfRange", false, 0, [](FrontEnd& e, auto&) { Split(e, 0).RawAvail(kRingSize); }},
    // Packed, transmit.
    {"PackedAddressOutsideMemory", true, 1,
     [](FrontEnd& e, auto&) {
       Packed(e, 1).RawAdd({kOutside, 100}, 3, 0);
     }},
    {"PackedLengthOfFourGigabytes", true, 1,
     [](FrontEnd& e, auto& b) {
       Packed(e, 1).RawAdd({b.gpa, 0xffffffff}, 3, 0);
     }},
    {"PackedLengthZero", true, 1,
     [](FrontEnd& e, auto& b) {
       Packed(e, 1).RawAdd({b.gpa, 0}, 3, 0);
     }},
    {"PackedShorterThanTheHeader", true, 1,
     [](FrontEnd& e, auto& b) {
       Packed(e, 1).RawAdd({b.gpa, 5}, 3, 0);
     }},
    {"PackedChainWithoutEnd", true, 1,
     [](FrontEnd& e, auto& b) {
       for (unsigned i = 0; i < kRingSize; ++i) Packed(e, 1).RawAdd({b.gpa, 100}, 3, kDescNext);
     }},
    {"PackedIdOutOfRange", true, 1,
     [](FrontEnd& e, auto& b) {
       Packed(e, 1).RawAdd({b.gpa, 5}, 60000, 0);
     }},
    {"PackedIndirectInIndirect", true, 1,
     [](FrontEnd& e, auto& b) {
       IndirectPacked(e, 1, b, {{b.gpa + 4096, 16, 0, kDescIndirect}}, 16);
     }},
    {"PackedIndirectTableTooLong", true, 1,
     [](FrontEnd& e, auto& b) {
       IndirectPacked(e, 1, b, {{b.gpa + 4096, 100, 0, 0}}, 16u << 20);
     }},
    {"PackedIndirectTableOfOddLength", true, 1,
     [](FrontEnd& e, auto& b) {
       IndirectPacked(e, 1, b, {{b.gpa + 4096, 5, 0, 0}}, 17);
     }},
    {"PackedIndirectTableEmpty", true, 1,
     [](FrontEnd& e, auto& b) {
       IndirectPacked(e, 1, b, {{b.gpa + 4096, 100, 0, 0}}, 0);
     }},
    {"PackedIndirectTableOutside", true, 1,
     [](FrontEnd& e, auto&) {
       Packed(e, 1).RawAdd({kOutside, 64}, 3, kDescIndirect);
     }},
    // Packed, receive.
    {"PackedReceiveOutsideMemory", true, 0,
     [](FrontEnd& e, auto&) {
       Packed(e, 0).RawAdd({kOutside, 2048, true}, 3, 0);
     }},
    {"PackedReceiveLengthZero", true, 0,
     [](FrontEnd& e, auto& b) {
       Packed(e, 0).RawAdd({b.gpa, 0, true}, 3, 0);
     }},
    {"PackedReceiveChainWithoutEnd", true, 0,
     [](FrontEnd& e, auto& b) {
       for (unsigned i = 0; i < kRingSize; ++i) Packed(e, 0).RawAdd({b.gpa, 1, true}, 3, kDescNext);
     }},
};

class HostileRing : public testing::TestWithParam<const Attack*> {
 protected:
  static void SetUpTestSuite() {
    stack_ = new Stack();
    stack_->AddWire("victim", "friend");
    stack_->AddWire("left", "right");
    const absl::Status started = stack_->Start();
    ASSERT_TRUE(started.ok()) << started;
    bystanders_ = new Bystanders(*stack_, "left", "right");
  }
  static void TearDownTestSuite() {
    delete bystanders_;
    delete stack_;
    bystanders_ = nullptr;
    stack_ = nullptr;
  }
  // Of both ends of the wire: what cannot be given to the victim counts where it came from.
  static int64_t Drops() {
    const int64_t victim = stack_->PortNumber("victim", "drops"), peer = stack_->PortNumber("friend", "drops");
    EXPECT_TRUE(victim >= 0 && peer >= 0) << "the API does not answer\n" << stack_->Logs();
    return victim + peer;
  }

  static Stack* stack_;
  static Bystanders* bystanders_;
};
Stack* HostileRing::stack_ = nullptr;
Bystanders* HostileRing::bystanders_ = nullptr;

TEST_P(HostileRing, IsCountedAndDropped) {
  const Attack& attack = *GetParam();
  ASSERT_TRUE(bystanders_->ready()) << stack_->Logs();
  FrontEnd peer({.socket = stack_->Socket("friend")});
  ASSERT_TRUE(peer.Connect(absl::Seconds(10)).ok()) << stack_->Logs();
  {
    FrontEnd hostile({.socket = stack_->Socket("victim"),
                      .ring_size = kRingSize,
                      .packed = attack.packed,
                      .offloads = fakes::Bit(kNetCsum) | fakes::Bit(kNetHostTso4)});
    ASSERT_TRUE(hostile.Connect(absl::Seconds(10)).ok()) << stack_->Logs();
    // The path works before: what the peer sends finds no buffers, and that is counted, too.
    std::vector<uint8_t> frame(500);
    fakes::FillTestFrame(frame, 1, 1);
    auto push = [&] {
      peer.tx(0).PollUsed();
      peer.tx(0).Send(frame);
      peer.FlushTx(0);
    };
    ASSERT_TRUE(bystanders_->Eventually([&] { return stack_->PortState("victim") == "running"; })) << stack_->Logs();
    const GuestMemory::Block buffer = hostile.memory().Allocate(64 << 10);
    const int64_t before = Drops();
    attack.act(hostile, buffer);
    hostile.Kick(attack.ring);
    if (attack.ring == 0) push();
    const bool counted = bystanders_->Eventually(
        [&] {
          if (attack.ring == 0) push();
          return Drops() > before || !stack_->daemon().running();
        },
        absl::Seconds(5));
    ASSERT_TRUE(stack_->daemon().running()) << stack_->Logs();
    EXPECT_TRUE(counted) << "no drop was counted\n" << stack_->Logs();
  }
  // The next guest on the same port.
  FrontEnd good({.socket = stack_->Socket("victim"), .packed = attack.packed});
  ASSERT_TRUE(good.Connect(absl::Seconds(10)).ok()) << stack_->Logs();
  fakes::Flow there(good, peer, 1), back(peer, good, 2);
  fakes::Flow* const flows[] = {&there, &back};
  EXPECT_TRUE(RunUntil(
      flows, [&] { return there.ledger().received > 200 && back.ledger().received > 200; }, absl::Seconds(10)))
      << stack_->Logs();
  EXPECT_EQ(DrainAll(flows, absl::Seconds(5)), "");
  EXPECT_EQ(there.Fault(), "");
  EXPECT_EQ(bystanders_->Loss(), "") << stack_->Logs();
  EXPECT_TRUE(stack_->keeper().running()) << stack_->Logs();
}

std::vector<const Attack*> AllAttacks() {
  std::vector<const Attack*> all;
  for (const Attack& attack : kAttacks) all.push_back(&attack);
  return all;
}
INSTANTIATE_TEST_SUITE_P(All, HostileRing, testing::ValuesIn(AllAttacks()),
                         [](const auto& test) { return std::string(test.param->name); });

}  // namespace
}  // namespace everport::component
