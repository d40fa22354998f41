// What we rely on in librte_vhost (22.11 and 24.11), seen from its outside.
#include <gtest/gtest.h>

#include "absl/time/clock.h"
#include "tests/assumptions/vhost_backend.h"
#include "tests/fakes/front_end.h"
#include "tests/fakes/packed_ring.h"
#include "tests/fakes/split_ring.h"
#include "tests/fakes/temp_dir.h"

namespace everport::assumptions {
namespace {

using fakes::FrontEnd;
using fakes::FrontEndOptions;
using fakes::PackedRing;
using fakes::SplitRing;
using fakes::Step;
using fakes::TempDir;

constexpr absl::Duration kLong = absl::Seconds(5);

// A back-end and a front-end that has started one queue pair.
struct Session {
  explicit Session(FrontEndOptions options)
      : front([&] {
          options.socket = dir / "s";
          return options;
        }()) {
    front.Listen();
    back = std::make_unique<VhostBackend>(dir / "s");
  }
  void Start() {
    const absl::Status connected = front.Connect(kLong);
    ASSERT_TRUE(connected.ok()) << connected;
    ASSERT_TRUE(back->WaitFor(Event::kNewDevice, 1, kLong));
    Settle();
  }
  // librte_vhost acknowledges a message before it lets go of the vrings' locks, and meanwhile a burst gives nothing.
  // When the next answer is there, the locks are free: GET_FEATURES takes none.
  void Settle() { ASSERT_TRUE(front.Run(Step{Step::kGetFeatures}).ok()); }
  void Send(unsigned count) {
    const std::vector<uint8_t> frame(100);
    for (unsigned i = 0; i < count; ++i) ASSERT_TRUE(front.tx(0).Send(frame, {.cuts = {12, 40}}));
    front.FlushTx(0);
  }
  TempDir dir;
  FrontEnd front;
  std::unique_ptr<VhostBackend> back;
};

// The keeper closes a daemon's connection and listens on: the daemon's librte_vhost must be back at once, not after its
// retry thread's second.
TEST(Client, ReconnectsAtOnceWhenTheServerClosesAndGoesOnListening) {
  Session session({});
  ASSERT_TRUE(session.front.Accept(kLong).ok());
  for (int i = 0; i < 5; ++i) {
    session.front.Disconnect();
    const absl::Time closed = absl::Now();
    ASSERT_TRUE(session.front.Accept(kLong).ok());
    EXPECT_LT(absl::Now() - closed, absl::Milliseconds(300));
  }
}

// … and is not when nobody listened at that moment: hence the keeper's sockets listen before `add` is answered.
TEST(Client, RetriesOnlyOnceASecond) {
  Session session({});
  ASSERT_TRUE(session.front.Accept(kLong).ok());
  session.front.StopListening();
  session.front.Disconnect();
  ASSERT_TRUE(session.back->WaitFor(Event::kDestroyConnection, 1, kLong));
  const absl::Time listening = absl::Now();
  session.front.Listen();
  ASSERT_TRUE(session.front.Accept(kLong).ok());
  EXPECT_LT(absl::Now() - listening, absl::Milliseconds(2500));
}

// The order in which the keeper replays a session (field notes): SET_FEATURES before the memory, all rings before
// ENABLE.
TEST(Replay, InTheKeepersOrderIsAccepted) {
  Session session({.queue_pairs = 2});
  ASSERT_TRUE(session.front.Accept(kLong).ok());
  std::vector<Step> steps = {{Step::kGetFeatures}, {Step::kGetProtocolFeatures}, {Step::kSetProtocolFeatures},
                             {Step::kSetOwner},    {Step::kSetFeatures},         {Step::kGetQueueNum},
                             {Step::kSetMemTable}, {Step::kSetBackendReqFd}};
  for (unsigned ring = 0; ring < 4; ++ring) {
    for (Step::Kind kind :
         {Step::kSetNum, Step::kSetBase, Step::kSetAddr, Step::kSetErr, Step::kSetCall, Step::kSetKick}) {
      steps.push_back({kind, ring});
    }
  }
  for (unsigned ring = 0; ring < 4; ++ring) steps.push_back({Step::kEnable, ring});
  steps.push_back({Step::kSetStatus, 0, 0x0f});
  const absl::Status ran = session.front.Run(steps);
  EXPECT_TRUE(ran.ok()) << ran;
  EXPECT_TRUE(session.back->WaitFor(Event::kNewDevice, 1, kLong));
  EXPECT_TRUE(session.back->WaitFor(Event::kVringOn, 4, kLong));
}

class Rings : public testing::TestWithParam<std::tuple<bool, bool>> {
 protected:
  static FrontEndOptions Options() {
    return {.ring_size = 64, .packed = std::get<0>(GetParam()), .in_order = std::get<1>(GetParam())};
  }
};

// Between two bursts nothing is in flight: avail and used position are the same, on both kinds of ring, wherever a
// burst ended. The index page and the keeper's bases rest on this.
TEST_P(Rings, AvailAndUsedAreTheSameAtBurstBoundaries) {
  Session session(Options());
  session.Start();
  unsigned received = 0;
  for (unsigned burst = 1; burst < 60; ++burst) {
    session.front.tx(0).PollUsed();
    session.Send(burst % 7 + 1);
    received += session.back->Dequeue(burst % 5 + 1);
    const auto tx = session.back->VringBase(1);
    EXPECT_EQ(tx.avail, tx.used) << burst;
    session.front.rx(0).AddBuffers(burst % 9 + 1);
    session.front.FlushRx(0);
    session.back->Enqueue(burst % 4 + 1, 100 + 60 * burst % 1900);
    const auto rx = session.back->VringBase(0);
    EXPECT_EQ(rx.avail, rx.used) << burst;
    session.front.rx(0).Poll([](auto, const auto&) {});
    while (session.back->Dequeue(32) > 0) ++received;  // keeps our side from running out
  }
  EXPECT_GT(received, 100u);
  EXPECT_EQ(session.front.TotalAccount().unknown, 0u);
}

// What the library says it has used is what the guest can see as used: used->idx, or the packed ring's position.
TEST_P(Rings, WhatIsReportedUsedTheGuestSees) {
  Session session(Options());
  session.Start();
  for (unsigned burst = 0; burst < 40; ++burst) {
    session.Send(5);
    ASSERT_EQ(session.back->Dequeue(5), 5u);
    session.front.tx(0).PollUsed();
    EXPECT_EQ(session.front.tx(0).ring().account().outstanding(), 0u) << burst;
    const auto base = session.back->VringBase(1);
    if (std::get<0>(GetParam())) {
      EXPECT_EQ(static_cast<PackedRing&>(session.front.ring(1)).used_position(), base.used);
    } else {
      EXPECT_EQ(static_cast<SplitRing&>(session.front.ring(1)).used_index(), base.used);
    }
  }
}

// GET_VRING_BASE of one ring stops the device at once, and the answer is where the next back-end must begin.
TEST_P(Rings, GetVringBaseStopsTheDeviceAndTellsWhereToGoOn) {
  Session session(Options());
  session.Start();
  session.Send(7);
  ASSERT_EQ(session.back->Dequeue(3), 3u);
  const absl::Status asked = session.front.Run({Step::kGetBase, 1});
  ASSERT_TRUE(asked.ok()) << asked;
  EXPECT_EQ(session.back->Count(Event::kDestroyDevice), 1u) << "before the answer came";
  const absl::Status other = session.front.Run({Step::kGetBase, 0});
  ASSERT_TRUE(other.ok()) << other;
  EXPECT_EQ(session.back->Count(Event::kDestroyDevice), 1u);

  // A new connection with these bases: the four frames that were left come, and no other.
  session.front.Disconnect();
  ASSERT_TRUE(session.front.Accept(kLong).ok());
  ASSERT_TRUE(session.front.Run(fakes::QemuConnectSteps(1)).ok());
  ASSERT_TRUE(session.front.Resume().ok());
  ASSERT_TRUE(session.back->WaitFor(Event::kNewDevice, 2, kLong));
  session.Settle();
  EXPECT_EQ(session.back->Dequeue(32), 4u);
  session.front.tx(0).PollUsed();
  EXPECT_EQ(session.front.tx(0).ring().account().outstanding(), 0u);
  EXPECT_EQ(session.front.tx(0).ring().account().unknown, 0u);
}

INSTANTIATE_TEST_SUITE_P(All, Rings, testing::Combine(testing::Bool(), testing::Bool()), [](const auto& test) {
  return std::string(std::get<0>(test.param) ? "Packed" : "Split") + (std::get<1>(test.param) ? "InOrder" : "");
});

// QEMU sends the same table again now and then (new descriptors of the same files): the device runs on, and does not
// lose its place.
TEST(MemTable, TheSameAgainLeavesARunningDeviceAsItIs) {
  Session session({.regions = 3});
  session.Start();
  const absl::Status sent = session.front.SendMemTable();
  ASSERT_TRUE(sent.ok()) << sent;
  session.Settle();
  EXPECT_EQ(session.back->Count(Event::kDestroyDevice), 0u);
  session.Send(4);
  EXPECT_EQ(session.back->Dequeue(32), 4u);
}

// A socket that the server closes in the middle of a message does not take the process with it, and the client is back.
TEST(Client, SurvivesHalfAMessage) {
  Session session({});
  ASSERT_TRUE(session.front.Accept(kLong).ok());
  const uint8_t half[] = {2, 0, 0, 0, 1, 0, 0, 0, 8, 0, 0, 0, 1};
  ASSERT_TRUE(session.front.socket().SendBytes(half).ok());
  session.front.Disconnect();
  session.Start();
}

}  // namespace
}  // namespace everport::assumptions
