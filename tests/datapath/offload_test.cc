#include "backend/datapath/offload.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <rte_mbuf.h>

#include <algorithm>
#include <functional>
#include <random>
#include <string>
#include <vector>

#include "tests/datapath/mbuf_support.h"
#include "tests/frames/frame.h"

namespace everport {
namespace {

using frames::Build;
using frames::Bytes;
using frames::FrameSpec;
using frames::L4Checksum;

constexpr uint16_t kRoom = RTE_MBUF_DEFAULT_DATAROOM;

class OffloadTest : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    pool_ = new TestPool("frames", 8191, RTE_MBUF_DEFAULT_BUF_SIZE);
    indirect_ = new TestPool("indirect", 8191, 0);
  }
  static void TearDownTestSuite() {
    delete pool_;
    delete indirect_;
  }
  void TearDown() override {
    EXPECT_EQ(pool_->missing(), 0u);
    EXPECT_EQ(indirect_->missing(), 0u);
  }

  // What comes out, as bytes; the frames themselves are freed once their round is seen.
  struct Result {
    std::vector<Bytes> frames;
    std::vector<uint64_t> flags;
    std::vector<unsigned> rounds;
    uint64_t malformed = 0;
    uint64_t no_mbufs = 0;
  };
  Result Run(const OffloadCaps& caps, std::vector<rte_mbuf*> in) { return Run(stage_, caps, std::move(in)); }
  static Result Run(OffloadStage& stage, const OffloadCaps& caps, std::vector<rte_mbuf*> in) {
    Result result;
    stage.Process(caps, in.data(), static_cast<uint16_t>(in.size()), [&](rte_mbuf** ready, uint16_t n) {
      result.rounds.push_back(n);
      for (uint16_t i = 0; i < n; ++i) {
        EXPECT_EQ(rte_mbuf_check(ready[i], 1, nullptr), 0);
        result.frames.push_back(BytesOf(ready[i]));
        result.flags.push_back(ready[i]->ol_flags & RTE_MBUF_F_TX_OFFLOAD_MASK);
        rte_pktmbuf_free(ready[i]);
      }
    });
    result.malformed = stage.TakeMalformed();
    result.no_mbufs = stage.TakeNoMbufs();
    return result;
  }

  Bytes Random(size_t n) {
    Bytes bytes(n);
    for (uint8_t& byte : bytes) byte = static_cast<uint8_t>(random_());
    return bytes;
  }
  size_t Between(size_t low, size_t high) { return low + random_() % (high - low + 1); }
  FrameSpec RandomSpec(uint8_t protocol) {
    FrameSpec spec;
    spec.v6 = random_() % 2;
    spec.vlan = random_() % 2;
    spec.protocol = protocol;
    if (!spec.v6) spec.ip_options = Random(4 * (random_() % 3 ? 0 : Between(1, 10)));
    if (protocol == frames::kTcp) spec.tcp_options = Random(4 * Between(0, 10));
    spec.ip_id = static_cast<uint16_t>(random_());
    spec.seq = static_cast<uint32_t>(random_());
    spec.tcp_flags = static_cast<uint8_t>(random_());
    return spec;
  }
  // Headers in the first mbuf, everything else anywhere, odd lengths included.
  std::vector<uint16_t> RandomCuts(const FrameSpec& spec) {
    std::vector<uint16_t> cuts;
    if (random_() % 4 == 0) return cuts;  // full mbufs, as librte_vhost makes them
    cuts.push_back(static_cast<uint16_t>(random_() % 2 ? spec.headers() : Between(spec.headers(), kRoom)));
    const size_t longest = Between(200, kRoom);
    for (int i = 0; i < 400; ++i) cuts.push_back(static_cast<uint16_t>(Between(longest / 2, longest)));
    return cuts;
  }

  static TestPool* pool_;
  static TestPool* indirect_;
  OffloadStage stage_{pool_->get(), indirect_->get()};
  std::mt19937 random_{7};
};

TestPool* OffloadTest::pool_ = nullptr;
TestPool* OffloadTest::indirect_ = nullptr;

// The reference segmenter: each segment is built anew from its description.
std::vector<Bytes> ReferenceSegments(const FrameSpec& whole, size_t mss) {
  std::vector<Bytes> segments;
  for (size_t at = 0; at < whole.payload.size(); at += mss) {
    FrameSpec part = whole;
    const size_t end = std::min(at + mss, whole.payload.size());
    part.payload.assign(whole.payload.begin() + static_cast<ptrdiff_t>(at),
                        whole.payload.begin() + static_cast<ptrdiff_t>(end));
    part.seq = whole.seq + static_cast<uint32_t>(at);
    part.ip_id = static_cast<uint16_t>(whole.ip_id + at / mss);
    if (at > 0) part.tcp_flags &= static_cast<uint8_t>(~frames::kCwr);
    if (end < whole.payload.size()) part.tcp_flags &= static_cast<uint8_t>(~(frames::kFin | frames::kPsh));
    segments.push_back(Build(part, L4Checksum::kFull));
  }
  return segments;
}

TEST_F(OffloadTest, FramesThatAskForNothingAreHandedOnAsTheyAre) {
  std::vector<rte_mbuf*> in;
  for (int i = 0; i < 32; ++i) in.push_back(MbufOf(Random(Between(60, 1514)), pool_->get()));
  in[3]->ol_flags |= RTE_MBUF_F_RX_RSS_HASH | RTE_MBUF_F_RX_L4_CKSUM_GOOD;
  rte_mbuf** const array = in.data();
  int calls = 0;
  stage_.Process(OffloadCaps{}, array, 32, [&](rte_mbuf** ready, uint16_t n) {
    ++calls;
    EXPECT_EQ(ready, array);
    EXPECT_EQ(n, 32);
  });
  EXPECT_EQ(calls, 1);
  EXPECT_EQ(in[3]->ol_flags, RTE_MBUF_F_RX_RSS_HASH | RTE_MBUF_F_RX_L4_CKSUM_GOOD);
  rte_pktmbuf_free_bulk(array, 32);
  stage_.Process(OffloadCaps{}, array, 0, [&](rte_mbuf**, uint16_t) { FAIL() << "nothing to emit"; });
}

TEST_F(OffloadTest, FinishesChecksumsOfAnyLayout) {
  for (int round = 0; round < 3000; ++round) {
    SCOPED_TRACE(round);
    FrameSpec spec = RandomSpec(random_() % 2 ? frames::kTcp : frames::kUdp);
    spec.payload = Random(Between(0, 9000 - spec.headers()));
    rte_mbuf* frame = MbufOf(Build(spec, L4Checksum::kPseudoHeader), pool_->get(), RandomCuts(spec));
    Ask(frame, spec);
    const Result result = Run({.mtu = 9000}, {frame});
    ASSERT_EQ(result.frames.size(), 1u);
    ASSERT_TRUE(frames::ChecksumsRight(result.frames[0]));
    ASSERT_EQ(result.frames[0], Build(spec, L4Checksum::kFull));
    ASSERT_EQ(result.flags[0], 0u);
  }
}

TEST_F(OffloadTest, UdpChecksumOfZeroIsSentAsOnes) {
  for (const bool v6 : {false, true}) {
    FrameSpec spec;
    spec.v6 = v6;
    spec.protocol = frames::kUdp;
    spec.payload = {0, 0};
    Bytes full = Build(spec, L4Checksum::kFull);
    const size_t field = spec.l2() + spec.l3() + 6;
    spec.payload = {full[field], full[field + 1]};  // what was missing to all ones
    rte_mbuf* frame = MbufOf(Build(spec, L4Checksum::kPseudoHeader), pool_->get());
    Ask(frame, spec);
    const Result result = Run({}, {frame});
    ASSERT_EQ(result.frames.size(), 1u);
    EXPECT_EQ(result.frames[0][field], 0xff);
    EXPECT_EQ(result.frames[0][field + 1], 0xff);
    EXPECT_TRUE(frames::ChecksumsRight(result.frames[0]));
  }
}

TEST_F(OffloadTest, PaddingBehindTheDatagramIsNotSummed) {
  FrameSpec spec;
  spec.payload = {1};
  Bytes padded = Build(spec, L4Checksum::kPseudoHeader);
  padded.resize(60, 0xaa);
  rte_mbuf* frame = MbufOf(padded, pool_->get());
  Ask(frame, spec);
  const Result result = Run({}, {frame});
  ASSERT_EQ(result.frames.size(), 1u);
  EXPECT_EQ(result.frames[0].size(), 60u);
  EXPECT_TRUE(frames::ChecksumsRight(result.frames[0]));
}

TEST_F(OffloadTest, SegmentsAreThoseOfTheReference) {
  OffloadStage one_pool(pool_->get());
  for (int round = 0; round < 600; ++round) {
    SCOPED_TRACE(round);
    FrameSpec spec = RandomSpec(frames::kTcp);
    spec.payload = Random(Between(1, 65535 - 60 - 60));
    const size_t least = spec.payload.size() > 16000 ? 200 : OffloadStage::kMinSegment;
    const uint16_t mss = static_cast<uint16_t>(Between(least, random_() % 2 ? 1500 : 9216 - 120));
    rte_mbuf* frame = MbufOf(Build(spec, L4Checksum::kPseudoHeader), pool_->get(), RandomCuts(spec));
    Ask(frame, spec, mss);
    const Result result = Run(round % 2 ? stage_ : one_pool, {.mtu = 9216}, {frame});
    const std::vector<Bytes> expected = ReferenceSegments(spec, mss);
    ASSERT_EQ(result.frames.size(), expected.size());
    for (size_t i = 0; i < expected.size(); ++i) {
      ASSERT_EQ(result.frames[i], expected[i]) << "segment " << i << " of " << expected.size();
      ASSERT_TRUE(frames::ChecksumsRight(result.frames[i]));
      ASSERT_EQ(result.flags[i], 0u);
    }
    ASSERT_LE(*std::max_element(result.rounds.begin(), result.rounds.end()), OffloadStage::kRound);
    ASSERT_EQ(result.malformed, 0u);
    ASSERT_EQ(pool_->missing(), 0u);
    ASSERT_EQ(indirect_->missing(), 0u);
  }
}

// The most segments that one frame can make.
TEST_F(OffloadTest, LargestFrameInSmallestSegments) {
  for (const bool v6 : {false, true}) {
    FrameSpec spec;
    spec.v6 = v6;
    spec.payload = Random(65535 - spec.l4() - (v6 ? 0 : spec.l3()));
    rte_mbuf* frame = MbufOf(Build(spec, L4Checksum::kPseudoHeader), pool_->get());
    Ask(frame, spec, OffloadStage::kMinSegment);
    const Result result = Run({}, {frame});
    EXPECT_EQ(result.frames, ReferenceSegments(spec, OffloadStage::kMinSegment));
  }
}

TEST_F(OffloadTest, SegmentationIgnoresTheGuestsIpLengthAndChecksums) {
  for (const bool v6 : {false, true}) {
    FrameSpec spec;
    spec.v6 = v6;
    spec.payload = Random(4000);
    Bytes bytes = Build(spec, L4Checksum::kPseudoHeader);
    const size_t length = spec.l2() + (v6 ? 4 : 2);
    bytes[length] = bytes[length + 1] = 0;
    bytes[spec.l2() + spec.l3() + 16] ^= 0x55;
    if (!v6) bytes[spec.l2() + 10] ^= 0x55;
    rte_mbuf* frame = MbufOf(bytes, pool_->get());
    Ask(frame, spec, 1000);
    EXPECT_EQ(Run({}, {frame}).frames, ReferenceSegments(spec, 1000));
  }
}

TEST_F(OffloadTest, ReceiverThatSegmentsGetsTheFrameAsItIs) {
  for (const bool v6 : {false, true}) {
    FrameSpec spec;
    spec.v6 = v6;
    spec.payload = Random(30000);
    const Bytes bytes = Build(spec, L4Checksum::kPseudoHeader);
    const OffloadCaps can{.l4_checksum = true, .tso4 = !v6, .tso6 = v6};
    rte_mbuf* frame = MbufOf(bytes, pool_->get());
    Ask(frame, spec, 1400);
    const Result passed = Run(can, {frame});
    ASSERT_EQ(passed.frames.size(), 1u);
    EXPECT_EQ(passed.frames[0], bytes);
    EXPECT_TRUE(passed.flags[0] & RTE_MBUF_F_TX_TCP_SEG);
    EXPECT_EQ(passed.flags[0] & RTE_MBUF_F_TX_L4_MASK, RTE_MBUF_F_TX_TCP_CKSUM);
    EXPECT_EQ(bool(passed.flags[0] & RTE_MBUF_F_TX_IP_CKSUM), !v6);

    const OffloadCaps other_family{.l4_checksum = true, .tso4 = v6, .tso6 = !v6};
    frame = MbufOf(bytes, pool_->get());
    Ask(frame, spec, 1400);
    EXPECT_EQ(Run(other_family, {frame}).frames, ReferenceSegments(spec, 1400));
  }
}

TEST_F(OffloadTest, ReceiverThatChecksumsGetsTheRequest) {
  FrameSpec spec;
  spec.payload = Random(100);
  const Bytes bytes = Build(spec, L4Checksum::kPseudoHeader);
  rte_mbuf* frame = MbufOf(bytes, pool_->get());
  Ask(frame, spec);
  const Result result = Run({.l4_checksum = true}, {frame});
  ASSERT_EQ(result.frames.size(), 1u);
  EXPECT_EQ(result.frames[0], bytes);
  EXPECT_EQ(result.flags[0], RTE_MBUF_F_TX_TCP_CKSUM | RTE_MBUF_F_TX_IPV4);
}

TEST_F(OffloadTest, SegmentationOfOneSegmentIsAChecksum) {
  for (const size_t payload : {size_t{0}, size_t{1}, size_t{1000}}) {
    FrameSpec spec;
    spec.tcp_flags = frames::kAck | frames::kCwr | frames::kPsh;
    spec.payload = Random(payload);
    rte_mbuf* frame = MbufOf(Build(spec, L4Checksum::kPseudoHeader), pool_->get());
    Ask(frame, spec, 1000);
    const Result result = Run({.l4_checksum = true, .tso4 = true}, {frame});
    EXPECT_THAT(result.frames, testing::ElementsAre(Build(spec, L4Checksum::kFull)));
  }
}

TEST_F(OffloadTest, KeepsTheOrderOfAMixedBurst) {
  std::vector<rte_mbuf*> in;
  std::vector<Bytes> expected;
  for (int i = 0; i < 32; ++i) {
    FrameSpec spec = RandomSpec(frames::kTcp);
    spec.payload = Random(i % 3 == 2 ? 5000 : 200);
    const bool asks = i % 3 != 0;
    rte_mbuf* frame = MbufOf(Build(spec, asks ? L4Checksum::kPseudoHeader : L4Checksum::kFull), pool_->get());
    if (asks) Ask(frame, spec, i % 3 == 2 ? 900 : 0);
    for (Bytes& segment : ReferenceSegments(spec, 900)) expected.push_back(std::move(segment));
    in.push_back(frame);
  }
  const Result result = Run({}, in);
  EXPECT_EQ(result.frames, expected);
  for (size_t i = 0; i + 1 < result.rounds.size(); ++i) EXPECT_EQ(result.rounds[i], OffloadStage::kRound);
}

TEST_F(OffloadTest, FramesLongerThanTheMtuAreDropped) {
  const auto plain = [&](size_t size) { return MbufOf(Random(size), pool_->get()); };
  Result result = Run({.mtu = 1500}, {plain(1518), plain(1519), plain(60)});
  EXPECT_EQ(result.frames.size(), 2u);
  EXPECT_EQ(result.malformed, 1u);
  EXPECT_EQ(Run({.mtu = 0}, {plain(20000)}).frames.size(), 1u);

  FrameSpec spec;
  spec.payload = Random(5000);
  for (const bool receiver_segments : {false, true}) {
    for (const uint16_t mss : {1460, 1461}) {
      rte_mbuf* frame = MbufOf(Build(spec, L4Checksum::kPseudoHeader), pool_->get());
      Ask(frame, spec, mss);
      result = Run({.l4_checksum = receiver_segments, .tso4 = receiver_segments, .mtu = 1500}, {frame});
      EXPECT_EQ(result.malformed, mss == 1460 ? 0u : 1u);
    }
  }
}

TEST_F(OffloadTest, EmptyPoolDropsTheFrameAndCountsIt) {
  TestPool small("small", 40, RTE_MBUF_DEFAULT_BUF_SIZE);
  for (const bool indirect_is_small : {false, true}) {
    OffloadStage stage(indirect_is_small ? pool_->get() : small.get(),
                       indirect_is_small ? small.get() : indirect_->get());
    for (const bool v6 : {false, true}) {
      FrameSpec spec;
      spec.v6 = v6;
      spec.payload = Random(60000);
      rte_mbuf* frame = MbufOf(Build(spec, L4Checksum::kPseudoHeader), pool_->get());
      Ask(frame, spec, 1000);
      const Result result = Run(stage, {}, {frame});
      EXPECT_EQ(result.no_mbufs, 1u);
      EXPECT_EQ(result.malformed, 0u);
      EXPECT_TRUE(result.frames.empty());
      EXPECT_EQ(small.missing(), 0u);
    }
  }
}

// Each case is a good frame with one thing wrong.
struct Lie {
  const char* name;
  bool v6;
  uint8_t protocol;
  uint16_t mss;
  std::function<void(rte_mbuf*)> tell;
};

uint8_t* At(rte_mbuf* frame, size_t offset) {
  return rte_pktmbuf_mtod_offset(frame, uint8_t*, offset);
}

const Lie kLies[] = {
    {"MSS 0", false, frames::kTcp, 1000, [](rte_mbuf* f) { f->tso_segsz = 0; }},
    {"MSS too small", true, frames::kTcp, 1000, [](rte_mbuf* f) { f->tso_segsz = 27; }},
    {"MSS of 64 KiB", true, frames::kTcp, 1000, [](rte_mbuf* f) { f->tso_segsz = 65535; }},
    {"IHL 0, as librte_vhost takes it", false, frames::kTcp, 0,
     [](rte_mbuf* f) {
       *At(f, 14) = 0x40;
       f->l3_len = 0;
     }},
    {"IHL 4, as librte_vhost takes it", false, frames::kTcp, 1000,
     [](rte_mbuf* f) {
       *At(f, 14) = 0x44;
       f->l3_len = 16;
     }},
    {"IHL not l3_len", false, frames::kTcp, 0, [](rte_mbuf* f) { *At(f, 14) = 0x46; }},
    {"version 6 in IPv4", false, frames::kTcp, 0, [](rte_mbuf* f) { *At(f, 14) = 0x65; }},
    {"version 4 in IPv6", true, frames::kTcp, 0, [](rte_mbuf* f) { *At(f, 14) = 0x45; }},
    {"later fragment", false, frames::kTcp, 0, [](rte_mbuf* f) { *At(f, 21) = 1; }},
    {"first fragment", false, frames::kTcp, 1000, [](rte_mbuf* f) { *At(f, 20) = 0x20; }},
    {"TCP asked, UDP sent", false, frames::kTcp, 0, [](rte_mbuf* f) { *At(f, 23) = 17; }},
    {"TCP asked, ICMP sent", true, frames::kTcp, 1000, [](rte_mbuf* f) { *At(f, 20) = 58; }},
    {"extension header", true, frames::kUdp, 0, [](rte_mbuf* f) { *At(f, 20) = 0; }},
    {"ethertype of another family", false, frames::kTcp, 0,
     [](rte_mbuf* f) {
       *At(f, 12) = 0x86;
       *At(f, 13) = 0xdd;
     }},
    {"no family", false, frames::kTcp, 0, [](rte_mbuf* f) { f->ol_flags &= ~RTE_MBUF_F_TX_IPV4; }},
    {"both families", false, frames::kTcp, 0, [](rte_mbuf* f) { f->ol_flags |= RTE_MBUF_F_TX_IPV6; }},
    {"l2_len 0", false, frames::kTcp, 0, [](rte_mbuf* f) { f->l2_len = 0; }},
    {"l2_len beyond the mbuf", false, frames::kTcp, 0, [](rte_mbuf* f) { f->l2_len = 127; }},
    {"l2_len as if tagged", false, frames::kTcp, 0, [](rte_mbuf* f) { f->l2_len = 18; }},
    {"l3_len beyond the mbuf", false, frames::kTcp, 1000, [](rte_mbuf* f) { f->l3_len = 511; }},
    {"data offset 0", false, frames::kTcp, 1000,
     [](rte_mbuf* f) {
       *At(f, 46) = 0;
       f->l4_len = 0;
     }},
    {"data offset beyond the mbuf", false, frames::kTcp, 0,
     [](rte_mbuf* f) {
       *At(f, 46) = 0xf0;
       rte_pktmbuf_trim(f, static_cast<uint16_t>(f->data_len - 60));
     }},
    {"IPv4 length beyond the frame", false, frames::kTcp, 0, [](rte_mbuf* f) { *At(f, 16) = 0xff; }},
    {"IPv4 length short of the headers", false, frames::kTcp, 0,
     [](rte_mbuf* f) {
       *At(f, 16) = 0;
       *At(f, 17) = 39;
     }},
    {"IPv4 length 0", false, frames::kUdp, 0,
     [](rte_mbuf* f) {
       *At(f, 16) = 0;
       *At(f, 17) = 0;
     }},
    {"IPv6 length beyond the frame", true, frames::kUdp, 0, [](rte_mbuf* f) { *At(f, 18) = 0xff; }},
    {"IPv6 length 0", true, frames::kTcp, 0,
     [](rte_mbuf* f) {
       *At(f, 18) = 0;
       *At(f, 19) = 0;
     }},
    {"UDP segmentation", false, frames::kUdp, 0, [](rte_mbuf* f) { f->ol_flags |= RTE_MBUF_F_TX_UDP_SEG; }},
    {"TCP segmentation of UDP", false, frames::kUdp, 0,
     [](rte_mbuf* f) {
       f->ol_flags |= RTE_MBUF_F_TX_TCP_SEG;
       f->tso_segsz = 100;
     }},
    {"SCTP checksum", false, frames::kTcp, 0,
     [](rte_mbuf* f) { f->ol_flags = (f->ol_flags & ~RTE_MBUF_F_TX_L4_MASK) | RTE_MBUF_F_TX_SCTP_CKSUM; }},
};

TEST_F(OffloadTest, LiesAreCountedAndFreedWhateverTheReceiverCan) {
  for (const Lie& lie : kLies) {
    for (const bool capable : {false, true}) {
      SCOPED_TRACE(lie.name);
      FrameSpec spec;
      spec.v6 = lie.v6;
      spec.protocol = lie.protocol;
      spec.payload = Random(lie.mss ? 1900 : 1000);
      rte_mbuf* frame = MbufOf(Build(spec, L4Checksum::kPseudoHeader), pool_->get());
      Ask(frame, spec, lie.mss);
      lie.tell(frame);
      const Result result = Run({.l4_checksum = capable, .tso4 = capable, .tso6 = capable}, {frame});
      EXPECT_EQ(result.malformed, 1u);
      EXPECT_TRUE(result.frames.empty());
    }
  }
}

TEST_F(OffloadTest, HeadersNotInTheFirstMbufAreMalformed) {
  for (const bool v6 : {false, true}) {
    for (const uint16_t mss : {0, 500}) {
      FrameSpec spec;
      spec.v6 = v6;
      spec.tcp_options = Random(12);
      spec.payload = Random(1000);
      for (uint16_t first = 1; first < spec.headers(); ++first) {
        rte_mbuf* frame = MbufOf(Build(spec, L4Checksum::kPseudoHeader), pool_->get(), {first});
        Ask(frame, spec, mss);
        EXPECT_EQ(Run({}, {frame}).malformed, 1u) << first;
      }
    }
  }
}

TEST_F(OffloadTest, FrameLongerThanIpAllowsIsMalformed) {
  for (const bool v6 : {false, true}) {
    FrameSpec spec;
    spec.v6 = v6;
    spec.payload = Random(65535 - spec.l4() - (v6 ? 0 : spec.l3()) + 1);
    rte_mbuf* frame = MbufOf(Build(spec, L4Checksum::kPseudoHeader), pool_->get());
    Ask(frame, spec, 1000);
    EXPECT_EQ(Run({.l4_checksum = true, .tso4 = true, .tso6 = true}, {frame}).malformed, 1u);
  }
}

// Random damage to bytes, flags and lengths: a frame is counted, or what comes out is within the MTU; nothing leaks.
TEST_F(OffloadTest, RandomDamageNeitherLeaksNorExceedsTheMtu) {
  for (int round = 0; round < 20000; ++round) {
    SCOPED_TRACE(round);
    FrameSpec spec = RandomSpec(random_() % 2 ? frames::kTcp : frames::kUdp);
    spec.payload = Random(Between(0, 3000));
    rte_mbuf* frame = MbufOf(Build(spec, L4Checksum::kPseudoHeader), pool_->get(), RandomCuts(spec));
    Ask(frame, spec, spec.protocol == frames::kTcp ? static_cast<uint16_t>(Between(0, 1400)) : 0);
    for (unsigned n = random_() % 4; n > 0; --n) {
      switch (random_() % 6) {
        case 0:
          frame->l2_len = random_();
          break;
        case 1:
          frame->l3_len = random_();
          break;
        case 2:
          frame->l4_len = random_();
          break;
        case 3:
          frame->ol_flags ^= uint64_t{1} << Between(42, 57);
          break;
        default:
          *At(frame, random_() % std::min<size_t>(spec.headers(), frame->data_len)) = static_cast<uint8_t>(random_());
      }
    }
    const bool capable = random_() % 2;
    const Result result = Run({.l4_checksum = capable}, {frame});
    EXPECT_TRUE(result.malformed == 1 || !result.frames.empty());
    for (const Bytes& out : result.frames) ASSERT_LE(out.size(), 1518u);
    ASSERT_EQ(pool_->missing(), 0u);
    ASSERT_EQ(indirect_->missing(), 0u);
  }
}

}  // namespace
}  // namespace everport
