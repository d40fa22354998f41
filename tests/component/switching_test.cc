// Planned switches of a port's path under full load, between uplinks of every relay kind: a tap, an af_packet, a memif
// (whose other end is a second daemon's) and a wire to another guest. Nothing that the guest has sent may be lost,
// doubled or overtaken. On real kernel devices in a network namespace of this process's own; needs root.
#include <gtest/gtest.h>
#include <sched.h>

#include <algorithm>
#include <atomic>
#include <boost/json/parse.hpp>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <sstream>
#include <thread>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "tests/component/guest_far_end.h"
#include "tests/component/stack.h"
#include "tests/fakes/arrivals.h"
#include "tests/fakes/far_end.h"
#include "tests/fakes/front_end.h"
#include "tests/fakes/network.h"
#include "tests/fakes/test_frame.h"

namespace everport::component {
namespace {

using fakes::FrontEnd;
using fakes::Shell;

constexpr char kGuestMac[] = "52:54:00:00:ee:02";  // where test frames go
constexpr size_t kFrame = 600;
constexpr uint64_t kWindow = 128;  // frames under way: less than any queue on the way holds
constexpr unsigned kPaths = 4;
constexpr unsigned kMostRefusals = 1000;  // of an uplink that does not work just now

double At(const std::vector<double>& sorted, double quantile) {
  if (sorted.empty()) return 0;
  return sorted[std::min(sorted.size() - 1, static_cast<size_t>(quantile * static_cast<double>(sorted.size())))];
}

// A CPU for the poller under test where there are several: its gaps are to be its own, not those of its neighbours.
const int kPollerCpu = std::thread::hardware_concurrency() > 1 ? 1 : -1;

void UseCpus(bool pollers_too) {
  if (kPollerCpu < 0) return;
  cpu_set_t cpus;
  CPU_ZERO(&cpus);
  for (unsigned cpu = 0; cpu < std::thread::hardware_concurrency(); ++cpu) CPU_SET(cpu, &cpus);
  if (!pollers_too) CPU_CLR(kPollerCpu, &cpus);
  ASSERT_EQ(sched_setaffinity(0, sizeof cpus, &cpus), 0);
}

class SwitchingTest : public testing::TestWithParam<bool> {
 protected:
  static void SetUpTestSuite() { fakes::EnterOwnNetwork(); }
  void SetUp() override {
    Shell("ip link add swv0 type veth peer name swv1 && ip link set swv0 up && ip link set swv1 up");
    const std::string memif = "net_memif0,role=%s,socket=" + (other_.dir() / "memif.sock") + ",socket-abstract=no";
    const auto role = [&](const char* name) { return std::string(memif).replace(memif.find("%s"), 2, name); };
    stack_.AddPort({.name = "vm",
                    .uplink_kind = "tap",
                    .uplink_device = "swtap",
                    .mac = kGuestMac,
                    .more_uplinks = {{"af_packet", "swv0"}, {"vdev", role("server")}, {"port", "peer"}}});
    stack_.AddPort({.name = "peer", .uplink_kind = "port", .uplink_device = "vm", .mac = "52:54:00:00:ee:03"});
    other_.AddPort({.name = "far", .uplink_kind = "vdev", .uplink_device = role("client"), .mac = "52:54:00:00:ee:04"});
    for (Stack* stack : {&stack_, &other_}) {
      const absl::Status started = stack->Start();
      ASSERT_TRUE(started.ok()) << started;
    }
    UseCpus(false);
    const auto connect = [&](std::unique_ptr<FrontEnd>& end, const Stack& stack, const char* port) {
      end = std::make_unique<FrontEnd>(fakes::FrontEndOptions{.socket = stack.Socket(port), .packed = GetParam()});
      const absl::Status connected = end->Connect(absl::Seconds(10));
      ASSERT_TRUE(connected.ok()) << connected << stack.Logs();
    };
    connect(vm_, stack_, "vm");
    connect(peer_, stack_, "peer");
    connect(far_, other_, "far");
    for (const char* interface : {"swtap", "swv1"}) {
      auto end = fakes::PacketFarEnd::Open(interface);
      ASSERT_TRUE(end.ok()) << end.status();
      ends_.push_back(*std::move(end));
    }
    ends_.push_back(std::make_unique<GuestFarEnd>(*far_));
    ends_.push_back(std::make_unique<GuestFarEnd>(*peer_));
  }

  void TearDown() override {
    UseCpus(true);
    Shell("ip link del swv0");
  }

  absl::Status Switch(unsigned path) const {
    return stack_.Post("/v1/ports/vm/path", absl::StrCat("{\"index\": ", path, "}"));
  }
  bool WaitUsable() const {  // memif connects by itself
    const absl::Time deadline = absl::Now() + absl::Seconds(20);
    for (unsigned path = 0; absl::Now() < deadline; std::this_thread::yield()) {
      if (Switch(path).ok() && ++path == kPaths) return true;
    }
    return false;
  }
  // One round of everybody's business.
  void Round(bool sending) {
    for (unsigned path = 0; path < kPaths; ++path)
      ends_[path]->Poll([&](std::span<const uint8_t> frame) { out_.Saw(frame, path); });
    vm_->tx(0).PollUsed();
    std::vector<uint8_t> frame(kFrame);
    for (int i = 0; i < 32 && sending && sent_ - out_.received < kWindow; ++i) {
      fakes::FillTestFrame(frame, 1, sent_);
      if (!vm_->tx(0).Send(frame)) break;
      ++sent_;
    }
    vm_->FlushTx(0);
    vm_->rx(0).Poll([&](std::span<const uint8_t> got, const fakes::NetHeader&) { in_.Saw(got, 0); });
    vm_->rx(0).AddBuffers();
    vm_->FlushRx(0);
    for (int i = 0; i < 8 && sending && in_sent_ < in_.received + in_lost_ + kWindow; ++i) {
      fakes::FillTestFrame(frame, 2, in_sent_);
      if (!ends_[out_.last_path]->Send(frame)) break;
      ++in_sent_;
    }
    arrived_.store(out_.received, std::memory_order_relaxed);
  }
  // Switches at random, each time after some frames have come.
  void SwitchAround(unsigned switches) {
    std::minstd_rand random(1);
    for (unsigned path = 0; done_ < switches && !failed_; ++done_) {
      const uint64_t before = arrived_.load();
      while (arrived_.load() < before + 40 && !failed_) std::this_thread::yield();
      path = (path + 1 + random() % (kPaths - 1)) % kPaths;
      absl::Status status = Switch(path);
      // The memif's other end is another daemon: while that gets no CPU, the uplink is stalled.
      for (; !status.ok() && refused_ < kMostRefusals; ++refused_) status = Switch(path = (path + 1) % kPaths);
      if (!status.ok()) {
        failure_ = status;
        failed_ = true;
      }
    }
    finished_ = true;
  }
  // As the daemon counts them: by hand, and because an uplink did not work for a moment.
  size_t Switches() const {
    size_t switches = 0;
    std::istringstream lines(stack_.GetText("/metrics").value_or(""));
    for (std::string line; std::getline(lines, line);) {
      if (line.starts_with("everport_port_path_switches_total{") && line.find("port=\"vm\"") != std::string::npos)
        switches += std::stoul(line.substr(line.rfind(' ') + 1));
    }
    return switches;
  }
  std::vector<double> ReportedGaps() const {
    std::vector<double> gaps;
    std::istringstream lines(stack_.GetText("/v1/events?follow=no").value_or(""));
    for (std::string line; std::getline(lines, line);) {
      const boost::json::object event = boost::json::parse(line).as_object();
      if (event.contains("path") && event.at("port") == "vm")
        gaps.push_back(event.at("path").at("ms").to_number<double>());
    }
    std::sort(gaps.begin(), gaps.end());
    return gaps;
  }

  Stack stack_{{.poller_cpu = kPollerCpu}}, other_{{.poller_cpu = kPollerCpu < 0 ? -1 : 0}};
  std::unique_ptr<FrontEnd> vm_, peer_, far_;
  std::vector<std::unique_ptr<fakes::FarEnd>> ends_;  // by uplink
  fakes::Arrivals out_{kPaths}, in_;
  uint64_t sent_ = 0, in_sent_ = 0, in_lost_ = 0;
  std::atomic<uint64_t> arrived_{0};
  std::atomic<unsigned> done_{0};
  unsigned refused_ = 0;
  std::atomic<bool> finished_{false}, failed_{false};
  absl::Status failure_;
};

TEST_P(SwitchingTest, NothingIsLostDoubledOrOvertaken) {
  constexpr unsigned kSwitches = 1000;
  ASSERT_TRUE(WaitUsable()) << stack_.Logs();
  ASSERT_TRUE(Switch(0).ok());
  std::thread switching([&] { SwitchAround(kSwitches); });
  const absl::Time start = absl::Now();
  absl::Time moved = start, in_moved = start;
  uint64_t in_last = 0;
  for (uint64_t last = 0; !finished_;) {
    Round(true);
    if (out_.received != last) {
      last = out_.received;
      moved = absl::Now();
    } else if (absl::Now() - moved > absl::Seconds(5)) {
      failed_ = true;  // it stands still
    }
    if (in_.received != in_last) {
      in_last = in_.received;
      in_moved = absl::Now();
    } else if (absl::Now() - in_moved > absl::Milliseconds(20)) {
      in_lost_ = in_sent_ - in_.received;  // what is under way is not coming any more
    }
  }
  switching.join();
  const absl::Time deadline = absl::Now() + absl::Seconds(5);
  while (out_.received < sent_ && absl::Now() < deadline) Round(false);
  const double seconds = absl::ToDoubleSeconds(absl::Now() - start);

  EXPECT_TRUE(failure_.ok()) << failure_;
  EXPECT_EQ(done_.load(), kSwitches) << stack_.Logs();
  EXPECT_EQ(out_.Missing(sent_), 0u) << "of " << sent_;
  EXPECT_EQ(out_.doubled, 0u);
  EXPECT_EQ(out_.overtaken, 0u);
  EXPECT_EQ(out_.corrupted + in_.corrupted, 0u);
  EXPECT_EQ(in_.doubled, 0u);
  EXPECT_GT(in_.received, kSwitches) << "frames reach the guest as well";
  const std::vector<double> gaps = out_.Gaps(), reported = ReportedGaps();
  EXPECT_LE(gaps.size(), Switches()) << "a frame of the old path came behind one of the new";
  EXPECT_GT(gaps.size(), kSwitches / 2);
  std::printf(
      "%u switches in %.1f s (%u refused), %lu frames out (%lu lost), %lu in (%lu lost); gap in ms, "
      "median/p99/longest: by the "
      "daemon's account %.3f/%.3f/%.3f, at the sink %.3f/%.3f/%.3f\n",
      done_.load(), seconds, refused_, sent_, out_.Missing(sent_), in_sent_, in_.Missing(in_sent_), At(reported, 0.5),
      At(reported, 0.99), At(reported, 1), At(gaps, 0.5), At(gaps, 0.99), At(gaps, 1));
  if (std::getenv("EVERPORT_TIMED_TESTS")) {
    EXPECT_LE(At(reported, 0.99), 1.0);
  }
  if (HasFailure()) std::printf("%s\n", stack_.Logs().c_str());
}

std::string RingsName(const testing::TestParamInfo<bool>& rings) {
  return rings.param ? "packed" : "split";
}
INSTANTIATE_TEST_SUITE_P(Rings, SwitchingTest, testing::Bool(), RingsName);

}  // namespace
}  // namespace everport::component
