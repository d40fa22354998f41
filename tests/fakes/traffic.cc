#include "tests/fakes/traffic.h"

#include <algorithm>
#include <thread>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"

namespace everport::fakes {

Flow::Flow(FrontEnd& from, FrontEnd& to, uint32_t first_stream, FlowOptions options)
    : from_(from),
      to_(to),
      first_stream_(first_stream),
      options_(std::move(options)),
      on_frame_([this](std::span<const uint8_t> frame, const NetHeader&) { OnFrame(frame); }),
      next_sequence_(from.options().queue_pairs),
      frame_(*std::max_element(options_.sizes.begin(), options_.sizes.end())),
      window_begin_(from.options().queue_pairs) {}

void Flow::OnFrame(std::span<const uint8_t> frame) {
  const auto id = ledger_.Saw(frame);
  const uint32_t pair = id ? id->stream - first_stream_ : UINT32_MAX;
  if (pair < window_begin_.size() && id->sequence >= window_begin_[pair]) ++arrived_in_window_;
}

unsigned Flow::Round() {
  unsigned moved = 0;
  for (unsigned pair = 0; pair < to_.options().queue_pairs; ++pair) {
    moved += to_.rx(pair).Poll(on_frame_);
    if (refilling) {
      moved += to_.rx(pair).AddBuffers();
      to_.FlushRx(pair);
    }
  }
  for (unsigned pair = 0; pair < from_.options().queue_pairs; ++pair) {
    moved += from_.tx(pair).PollUsed();
    const uint64_t before = sent_;
    if (sending) SendBurst(pair);
    moved += static_cast<unsigned>(sent_ - before);
  }
  return moved;
}

void Flow::SendBurst(unsigned pair) {
  for (unsigned i = 0; i < options_.burst && sent_ < limit && unaccounted() < window_; ++i) {
    const uint64_t sequence = next_sequence_[pair];
    const std::span<uint8_t> frame(frame_.data(), options_.sizes[sequence % options_.sizes.size()]);
    FillTestFrame(frame, first_stream_ + pair, sequence);
    if (!from_.tx(pair).Send(frame, options_.shapes[sequence % options_.shapes.size()])) break;
    ++next_sequence_[pair];
    ++sent_;
  }
  if (options_.kick_always) {
    from_.tx(pair).Publish();
    from_.Kick(2 * pair + 1);
  } else {
    from_.FlushTx(pair);
  }
}

void Flow::StartWindow(uint64_t frames) {
  window_ = frames;
  window_begin_ = next_sequence_;
  sent_before_window_ = sent_;
  arrived_in_window_ = 0;
}

uint64_t Flow::malformed() const {
  uint64_t count = 0;
  for (unsigned pair = 0; pair < to_.options().queue_pairs; ++pair) count += to_.rx(pair).malformed();
  return count;
}

uint64_t Flow::tx_outstanding() const {
  uint64_t count = 0;
  for (unsigned pair = 0; pair < from_.options().queue_pairs; ++pair)
    count += from_.tx(pair).ring().account().outstanding();
  return count;
}

uint64_t Flow::rx_outstanding() const {
  uint64_t count = 0;
  for (unsigned pair = 0; pair < to_.options().queue_pairs; ++pair)
    count += to_.rx(pair).ring().account().outstanding();
  return count;
}

std::string Flow::Fault() const {
  std::string fault = ledger_.first_fault;
  if (malformed() > 0) absl::StrAppend(&fault, "; ", malformed(), " receive buffers whose lengths make no sense");
  auto check = [&](const RingAccount& account, const char* what, unsigned pair) {
    if (account.unknown > 0)
      absl::StrAppend(&fault, "; ", what, " ", pair, ": ", account.unknown, " chains used twice");
    if (account.misordered > 0) absl::StrAppend(&fault, "; ", what, " ", pair, ": chains out of order");
  };
  for (unsigned pair = 0; pair < from_.options().queue_pairs; ++pair)
    check(from_.tx(pair).ring().account(), "tx", pair);
  for (unsigned pair = 0; pair < to_.options().queue_pairs; ++pair) check(to_.rx(pair).ring().account(), "rx", pair);
  return fault;
}

bool RunUntil(std::span<Flow* const> flows, const std::function<bool()>& done, absl::Duration timeout) {
  const absl::Time deadline = absl::Now() + timeout;
  for (;;) {
    unsigned moved = 0;
    for (Flow* flow : flows) moved += flow->Round();
    if (done()) return true;
    if (absl::Now() > deadline) return false;
    if (moved == 0) std::this_thread::yield();
  }
}

std::string DrainAll(std::span<Flow* const> flows, absl::Duration timeout) {
  auto sum = [&](uint64_t (Flow::*of)() const) {
    uint64_t total = 0;
    for (Flow* flow : flows) total += (flow->*of)();
    return total;
  };
  for (Flow* flow : flows) flow->sending = false;
  if (!RunUntil(
          flows, [&] { return sum(&Flow::tx_outstanding) == 0; }, timeout)) {
    return absl::StrCat(sum(&Flow::tx_outstanding), " transmit chains never came back");
  }
  for (Flow* flow : flows) {
    flow->refilling = false;
    flow->sending = true;
  }
  auto done = [&] {
    for (Flow* flow : flows) flow->sending = flow->rx_outstanding() > 0;
    return sum(&Flow::rx_outstanding) == 0 && sum(&Flow::tx_outstanding) == 0;
  };
  const bool drained = RunUntil(flows, done, timeout);
  for (Flow* flow : flows) {
    flow->sending = false;
    flow->refilling = true;
  }
  if (drained) return "";
  return absl::StrCat(sum(&Flow::rx_outstanding), " receive buffers and ", sum(&Flow::tx_outstanding),
                      " transmit chains never came back");
}

}  // namespace everport::fakes
