#pragma once

// A port "vm" with a guest that sends, on real kernel devices in a network namespace of the test program's own; what
// comes out of the uplinks is taken at their far ends. Needs root.

#include <gtest/gtest.h>

#include <algorithm>
#include <boost/json/parse.hpp>
#include <cstdio>
#include <memory>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include "absl/time/clock.h"
#include "tests/component/stack.h"
#include "tests/fakes/arrivals.h"
#include "tests/fakes/far_end.h"
#include "tests/fakes/front_end.h"
#include "tests/fakes/network.h"
#include "tests/fakes/test_frame.h"

namespace everport::component {

inline constexpr size_t kFrame = 128;
inline constexpr uint64_t kWindow = 64;  // frames under way, as far as the far ends tell
inline constexpr absl::Duration kPatience = absl::Seconds(20);

struct Change {
  int from, to;
};

class GuestOnUplinks : public testing::Test {
 protected:
  static void SetUpTestSuite() { fakes::EnterOwnNetwork(); }
  void SetUp() override {
    fakes::Shell("ip link add uf0 type veth peer name uf1 && ip link set uf0 up && ip link set uf1 up");
  }
  void TearDown() override {
    if (HasFailure()) std::printf("%s\n", stack_.Logs().c_str());
    fakes::Shell("ip link del uf0; ip link del ug0 2>/dev/null; true");
  }

  void Start(std::pair<std::string, std::string> second, int failback_delay_ms = 100) {
    stack_.AddPort({.name = "vm",
                    .uplink_kind = "af_packet",
                    .uplink_device = "uf0",
                    .mac = "52:54:00:00:ee:02",
                    .failback_delay_ms = failback_delay_ms,
                    .more_uplinks = {std::move(second)}});
    ASSERT_NO_FATAL_FAILURE(Connect());
    Hear("uf1");
  }
  void Connect() {
    const absl::Status started = stack_.Start();
    ASSERT_TRUE(started.ok()) << started;
    guest_ = std::make_unique<fakes::FrontEnd>(fakes::FrontEndOptions{.socket = stack_.Socket("vm")});
    const absl::Status connected = guest_->Connect(absl::Seconds(10));
    ASSERT_TRUE(connected.ok()) << connected;
  }
  void Hear(const std::string& device) {
    auto end = fakes::PacketFarEnd::Open(device);
    ASSERT_TRUE(end.ok()) << end.status();
    ends_.push_back(std::move(*end));
  }
  // The guest sends, and what comes out is taken. Frames that a device has lost do not count as under way for long.
  void Round() {
    for (unsigned i = 0; i < ends_.size(); ++i)
      ends_[i]->Poll([&](std::span<const uint8_t> frame) { arrived_.Saw(frame, i); });
    if (arrived_.received != seen_) {
      seen_ = arrived_.received;
      moved_ = absl::Now();
    } else if (absl::Now() - moved_ > absl::Milliseconds(2)) {
      lost_ = sent_ - arrived_.received;
    }
    guest_->tx(0).PollUsed();
    std::vector<uint8_t> frame(kFrame);
    while (sent_ < arrived_.received + lost_ + kWindow) {
      fakes::FillTestFrame(frame, 1, sent_);
      if (!guest_->tx(0).Send(frame)) break;
      ++sent_;
    }
    guest_->FlushTx(0);
  }
  template <typename Condition>
  testing::AssertionResult Until(Condition condition, const char* what) {
    const absl::Time deadline = absl::Now() + kPatience;
    while (!condition()) {
      if (absl::Now() > deadline) return testing::AssertionFailure() << what << ": not within " << kPatience;
      Round();
    }
    return testing::AssertionSuccess();
  }
  void RunUntil(absl::Time end) {
    while (absl::Now() < end) Round();
  }
  boost::json::value Port() const { return stack_.Get("/v1/ports/vm").value_or(nullptr); }
  int64_t Path() const {
    const boost::json::value port = Port();
    return port.is_object() ? port.at("path").at("index").to_number<int64_t>() : -2;
  }
  bool ArrivesBy(unsigned end) {
    const uint64_t before = arrived_.path(end).received;
    return bool{Until([&] { return arrived_.path(end).received > before + 10; }, "frames at the far end")};
  }
  std::vector<boost::json::object> Events() const {
    std::vector<boost::json::object> events;
    std::istringstream lines(stack_.GetText("/v1/events?follow=no").value_or(""));
    for (std::string line; std::getline(lines, line);) events.push_back(boost::json::parse(line).as_object());
    return events;
  }
  // Whether the guest's address is announced by this interface; from now on, so be quick.
  bool Announced(const std::string& interface) {
    constexpr uint16_t kRarp = 0x8035;
    auto end = fakes::PacketFarEnd::Open(interface, kRarp);
    bool heard = false;
    return end.ok() && bool{Until(
                           [&] {
                             (*end)->Poll([&](std::span<const uint8_t>) { heard = true; });
                             return heard;
                           },
                           "announcements")};
  }
  // Where in Events() the first is that has this in its message; -1: none.
  int EventWith(const std::string& text) const {
    const std::vector<boost::json::object> events = Events();
    const auto found = std::find_if(events.begin(), events.end(), [&](const boost::json::object& event) {
      return event.at("message").as_string().find(text) != std::string::npos;
    });
    return found == events.end() ? -1 : static_cast<int>(found - events.begin());
  }
  std::vector<Change> Changes() const {
    std::vector<Change> changes;
    for (const boost::json::object& event : Events()) {
      if (!event.contains("path")) continue;
      changes.push_back({event.at("path").at("from").to_number<int>(), event.at("path").at("to").to_number<int>()});
    }
    return changes;
  }

  Stack stack_;
  std::unique_ptr<fakes::FrontEnd> guest_;
  std::vector<std::unique_ptr<fakes::FarEnd>> ends_;
  fakes::Arrivals arrived_{4};
  uint64_t sent_ = 0, lost_ = 0, seen_ = 0;
  absl::Time moved_ = absl::Now();
};

}  // namespace everport::component
