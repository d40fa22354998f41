// Checksum and TSO on a `port` wire when only one of the two guests has negotiated them: the other still gets frames
// that it can read, with every byte.
#include <gtest/gtest.h>

#include <tuple>

#include "tests/component/stack.h"
#include "tests/fakes/traffic.h"
#include "tests/frames/frame.h"

namespace everport::component {
namespace {

using fakes::Bit;
using fakes::FrontEnd;
using fakes::NetHeader;
using frames::Bytes;
using frames::FrameSpec;

constexpr uint64_t kSends = Bit(kNetCsum) | Bit(kNetHostTso4) | Bit(kNetHostTso6);
constexpr uint64_t kReceives = Bit(kNetGuestCsum) | Bit(kNetGuestTso4) | Bit(kNetGuestTso6);
constexpr uint16_t kMss = 1400;
constexpr uint8_t kNeedsCsum = 1, kGsoTcp4 = 1, kGsoTcp6 = 4;

struct Received {
  Bytes frame;
  NetHeader header;
};

// packed, IPv6, payload bytes, receiver has offloads
class OffloadWire : public testing::TestWithParam<std::tuple<bool, bool, size_t, bool>> {
 protected:
  static void SetUpTestSuite() {
    stack_ = new Stack();
    stack_->AddWire("a", "b");
    const absl::Status started = stack_->Start();
    ASSERT_TRUE(started.ok()) << started;
  }
  static void TearDownTestSuite() {
    delete stack_;
    stack_ = nullptr;
  }
  static Stack* stack_;
};
Stack* OffloadWire::stack_ = nullptr;

FrameSpec Spec(bool v6, size_t payload) {
  FrameSpec spec;
  spec.v6 = v6;
  spec.tcp_flags = frames::kAck;
  spec.tcp_options = {1, 1, 8, 10, 1, 2, 3, 4, 5, 6, 7, 8};  // timestamps, as Linux sends them
  for (size_t i = 0; i < payload; ++i) spec.payload.push_back(static_cast<uint8_t>(i * 7 + i / 251));
  return spec;
}

NetHeader HeaderFor(const FrameSpec& spec) {
  NetHeader header{.flags = kNeedsCsum, .csum_start = static_cast<uint16_t>(spec.l2() + spec.l3()), .csum_offset = 16};
  if (spec.payload.size() > kMss) {
    header.gso_type = spec.v6 ? kGsoTcp6 : kGsoTcp4;
    header.gso_size = kMss;
    header.hdr_len = static_cast<uint16_t>(spec.headers());
  }
  return header;
}

TEST_P(OffloadWire, EveryByteArrivesInFramesThatTheReceiverCanRead) {
  const auto [packed, v6, payload, receiver_offloads] = GetParam();
  FrontEnd a({.socket = stack_->Socket("a"), .packed = packed, .offloads = kSends, .max_frame = 65550});
  FrontEnd b({.socket = stack_->Socket("b"),
              .packed = packed,
              .offloads = receiver_offloads ? kReceives : 0,
              .max_frame = 65550});
  for (FrontEnd* end : {&a, &b}) {
    const absl::Status connected = end->Connect(absl::Seconds(10));
    ASSERT_TRUE(connected.ok()) << connected << "\n" << stack_->Logs();
  }
  ASSERT_EQ(a.features() & kSends, kSends);
  // First plain frames, until the wire is up on both sides.
  fakes::Flow flow(a, b, 1);
  fakes::Flow* const flows[] = {&flow};
  ASSERT_TRUE(RunUntil(
      flows, [&] { return flow.ledger().received > 100; }, absl::Seconds(10)))
      << stack_->Logs();
  ASSERT_EQ(DrainAll(flows, absl::Seconds(5)), "");

  const FrameSpec spec = Spec(v6, payload);
  b.rx(0).AddBuffers();
  b.FlushRx(0);
  ASSERT_TRUE(a.tx(0).Send(frames::Build(spec, frames::L4Checksum::kPseudoHeader), {.cuts = {12, 66, 4096, 4096}},
                           HeaderFor(spec)));
  a.FlushTx(0);
  std::vector<Received> received;
  size_t bytes = 0;
  const absl::Time deadline = absl::Now() + absl::Seconds(5);
  while (bytes < payload && absl::Now() < deadline) {
    b.rx(0).Poll([&](std::span<const uint8_t> frame, const NetHeader& header) {
      received.push_back({Bytes(frame.begin(), frame.end()), header});
      if (frame.size() > spec.headers()) bytes += frame.size() - spec.headers();
    });
  }
  Bytes arrived;
  for (const Received& one : received) {
    ASSERT_GT(one.frame.size(), spec.headers());
    arrived.insert(arrived.end(), one.frame.begin() + static_cast<long>(spec.headers()), one.frame.end());
    if (!receiver_offloads) {
      EXPECT_LE(one.frame.size(), spec.headers() + kMss);
      EXPECT_EQ(one.header.gso_type, 0);
      EXPECT_EQ(one.header.flags & kNeedsCsum, 0);
    }
    if ((one.header.flags & kNeedsCsum) == 0) {
      EXPECT_TRUE(frames::ChecksumsRight(one.frame));
    } else {
      EXPECT_EQ(one.header.csum_start, spec.l2() + spec.l3());
      EXPECT_EQ(one.header.csum_offset, 16);
    }
  }
  EXPECT_EQ(arrived, spec.payload) << received.size() << " frames, " << stack_->PortNumber("a", "drops") << " drops\n"
                                   << stack_->Logs();
  if (receiver_offloads) {
    EXPECT_EQ(received.size(), 1u) << "a big frame goes from guest to guest in one piece";
  }
}

INSTANTIATE_TEST_SUITE_P(All, OffloadWire,
                         testing::Combine(testing::Bool(), testing::Bool(), testing::Values<size_t>(200, 1401, 30000),
                                          testing::Bool()),
                         [](const auto& test) {
                           return std::string(std::get<0>(test.param) ? "Packed" : "Split") +
                                  (std::get<1>(test.param) ? "V6Bytes" : "V4Bytes") +
                                  std::to_string(std::get<2>(test.param)) +
                                  (std::get<3>(test.param) ? "BothSides" : "SenderOnly");
                         });

}  // namespace
}  // namespace everport::component
