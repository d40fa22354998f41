// Frames between two guests on a `port` wire, for every ring format that a guest may negotiate.
#include <gtest/gtest.h>

#include <boost/json/serialize.hpp>
#include <tuple>

#include "tests/component/stack.h"
#include "tests/fakes/traffic.h"

namespace everport::component {
namespace {

using fakes::Flow;
using fakes::FlowOptions;
using fakes::FrontEnd;
using fakes::FrontEndOptions;

struct Shape {
  unsigned queue_pairs;
  unsigned mtu;
};
constexpr Shape kShapes[] = {{1, 1500}, {4, 1500}, {16, 1500}, {1, 9216}, {4, 9216}, {16, 9216}};

std::string PortName(const Shape& shape, char end) {
  return "q" + std::to_string(shape.queue_pairs) + "m" + std::to_string(shape.mtu) + end;
}

// One pair of programs for all of them: each case is also a new session of ports that had others before.
class WireTest : public testing::TestWithParam<std::tuple<bool, bool, bool, bool, bool, int>> {
 protected:
  static void SetUpTestSuite() {
    stack_ = new Stack();
    for (const Shape& shape : kShapes) {
      stack_->AddWire(PortName(shape, 'a'), PortName(shape, 'b'), shape.queue_pairs, shape.mtu);
    }
    const absl::Status started = stack_->Start();
    ASSERT_TRUE(started.ok()) << started;
  }
  static void TearDownTestSuite() {
    delete stack_;
    stack_ = nullptr;
  }
  static FrontEndOptions Options(const std::string& port, const Shape& shape) {
    const auto [packed, mergeable, indirect, in_order, event_idx, which] = GetParam();
    return {.socket = stack_->Socket(port),
            .queue_pairs = shape.queue_pairs,
            .packed = packed,
            .mergeable = mergeable,
            .indirect = indirect,
            .in_order = in_order,
            .event_idx = event_idx,
            .split_rx_header = indirect,
            .max_frame = shape.mtu + 14,
            .regions = 1u + shape.queue_pairs % 8};
  }
  static std::string Drops(const std::string& port) {
    auto view = stack_->Get("/v1/ports/" + port);
    return view.ok() ? boost::json::serialize(*view) + "\n" : std::string(view.status().message());
  }
  static Stack* stack_;
};
Stack* WireTest::stack_ = nullptr;

FlowOptions Frames(const Shape& shape) {
  return {.sizes = {60, 64, 127, 594, 1514, shape.mtu + 14},
          .shapes = {{},
                     {.cuts = {12}},
                     {.cuts = {12, 14, 46}},
                     {.cuts = {12, 20}, .indirect = true},
                     {.cuts = {}, .indirect = true},
                     {.cuts = {12, 1, 1, 1, 1, 1, 1, 30}},
                     {.cuts = {70}}}};
}

TEST_P(WireTest, FramesArriveIntactBothWays) {
  const Shape& shape = kShapes[std::get<5>(GetParam())];
  FrontEnd a(Options(PortName(shape, 'a'), shape)), b(Options(PortName(shape, 'b'), shape));
  a.Listen();
  b.Listen();
  for (FrontEnd* end : {&a, &b}) {
    const absl::Status connected = end->Connect(absl::Seconds(5));
    ASSERT_TRUE(connected.ok()) << connected << "\n" << stack_->Logs();
    EXPECT_EQ(end->queue_num(), shape.queue_pairs);
  }
  Flow there(a, b, 100, Frames(shape)), back(b, a, 200, Frames(shape));
  Flow* const flows[] = {&there, &back};
  const uint64_t enough = 400 * shape.queue_pairs;
  EXPECT_TRUE(RunUntil(
      flows, [&] { return there.ledger().received >= enough && back.ledger().received >= enough; }, absl::Seconds(10)))
      << there.ledger().received << " and " << back.ledger().received << " frames arrived\n"
      << stack_->Logs();
  ASSERT_EQ(DrainAll(flows, absl::Seconds(5)), "") << stack_->Logs();
  // Now at a pace that fills no ring: every single frame must arrive.
  for (Flow* flow : flows) {
    flow->StartWindow(64);
    flow->sending = true;
    flow->limit = flow->sent() + enough;
  }
  EXPECT_TRUE(RunUntil(
      flows,
      [&] {
        return there.sent() == there.limit && back.sent() == back.limit &&
               there.unaccounted() + back.unaccounted() == 0;
      },
      absl::Seconds(10)))
      << there.unaccounted() << " and " << back.unaccounted() << " frames did not arrive\n"
      << Drops(PortName(shape, 'a')) << Drops(PortName(shape, 'b')) << stack_->Logs();
  EXPECT_EQ(there.Fault(), "");
  EXPECT_EQ(back.Fault(), "");
  // Each end counts what its guest was given, which is what the other's guest has sent.
  for (const auto& [from, to] : {std::pair('a', 'b'), std::pair('b', 'a')}) {
    const std::string sender = PortName(shape, from), receiver = PortName(shape, to);
    EXPECT_GE(stack_->PortNumber(receiver, "rx_packets"), static_cast<int64_t>(enough));
    const auto same = [&](const char* rx, const char* tx) {  // a poller books what it has sent a moment later
      return RunUntil(
          flows, [&] { return stack_->PortNumber(receiver, rx) == stack_->PortNumber(sender, tx); }, absl::Seconds(5));
    };
    EXPECT_TRUE(same("rx_packets", "tx_packets")) << stack_->PortNumber(receiver, "rx_packets");
    EXPECT_TRUE(same("rx_bytes", "tx_bytes")) << stack_->PortNumber(receiver, "rx_bytes");
  }
}

std::string CaseName(const testing::TestParamInfo<WireTest::ParamType>& info) {
  const auto [packed, mergeable, indirect, in_order, event_idx, which] = info.param;
  return PortName(kShapes[which], 'w') + (packed ? "_packed" : "_split") + (mergeable ? "_mergeable" : "") +
         (indirect ? "_indirect" : "") + (in_order ? "_inorder" : "") + (event_idx ? "_eventidx" : "");
}

INSTANTIATE_TEST_SUITE_P(Rings, WireTest,
                         testing::Combine(testing::Bool(), testing::Bool(), testing::Bool(), testing::Bool(),
                                          testing::Bool(), testing::Range(0, 6)),
                         CaseName);

}  // namespace
}  // namespace everport::component
