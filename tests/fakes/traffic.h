#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "tests/fakes/front_end.h"
#include "tests/fakes/test_frame.h"

namespace everport::fakes {

struct FlowOptions {
  std::vector<uint32_t> sizes = {60, 61, 127, 594, 1514};  // frames take them in turn, bytes
  std::vector<ChainShape> shapes = {{}};                   // likewise; keep its count coprime to that of sizes
  unsigned burst = 32;                                     // frames per queue and round
  bool kick_always = false;                                // whatever the device's suppression says
};

// Frames from one front-end's transmit rings to another's receive rings, through whatever lies between, and the books
// about them. Queue pair p sends streams first_stream + p. Single-threaded; both front-ends must be running.
class Flow {
 public:
  Flow(FrontEnd& from, FrontEnd& to, uint32_t first_stream, FlowOptions options = {});

  // One round: refills and empties the receive rings, takes back used transmit buffers, sends a burst per queue pair.
  // Gives the number of buffers that moved.
  unsigned Round();

  bool sending = true;          // off: no new frames
  bool refilling = true;        // off: no new receive buffers
  uint64_t limit = UINT64_MAX;  // stop sending at this many frames

  // From here on at most `frames` are on the way, so that no ring fills and a frame that does not arrive is a fault of
  // what lies between: see unaccounted(). Call after DrainAll. A last few may still be in the hands of what lies
  // between, their chains given back: they are none of the window's.
  void StartWindow(uint64_t frames);
  // Frames sent since StartWindow that have not arrived.
  uint64_t unaccounted() const { return sent_ - sent_before_window_ - arrived_in_window_; }

  uint64_t sent() const { return sent_; }
  const FrameLedger& ledger() const { return ledger_; }
  uint64_t malformed() const;
  uint64_t tx_outstanding() const;  // descriptor chains the device has not given back
  uint64_t rx_outstanding() const;
  // Empty if nothing is wrong: no frame corrupted or repeated, no chain used twice or out of order. Lost frames and
  // chains are for the caller to judge.
  std::string Fault() const;

 private:
  void SendBurst(unsigned pair);
  void OnFrame(std::span<const uint8_t> frame);

  FrontEnd& from_;
  FrontEnd& to_;
  uint32_t first_stream_;
  FlowOptions options_;
  FrameLedger ledger_;
  RxQueue::OnFrame on_frame_;
  std::vector<uint64_t> next_sequence_;
  std::vector<uint8_t> frame_;
  uint64_t sent_ = 0;
  uint64_t window_ = UINT64_MAX;
  std::vector<uint64_t> window_begin_;  // by pair: the window's first sequence
  uint64_t sent_before_window_ = 0;
  uint64_t arrived_in_window_ = 0;
};

// Rounds over all flows until done() or the timeout. True if done. Yields the CPU when nothing moves.
bool RunUntil(std::span<Flow* const> flows, const std::function<bool()>& done, absl::Duration timeout);

// Stops sending and waits until every transmit chain has come back; then, with small frames and no new buffers, until
// every receive buffer has. Empty if both happened by then, else what is still out. Leaves the flows not sending.
std::string DrainAll(std::span<Flow* const> flows, absl::Duration timeout);

}  // namespace everport::fakes
