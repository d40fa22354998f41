// A port whose uplinks are a vDPA device of a DPDK driver and a tap, behind the real keeper and daemon. The driver is a
// fake (vdpa_driver.cc), preloaded into the daemon; librte_vhost attaches it and hands it the rings as it would a real
// one. On real kernel devices in a network namespace of this process's own; needs root.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <net/if.h>
#include <unistd.h>

#include <atomic>
#include <boost/json/serialize.hpp>
#include <cstdio>
#include <fstream>
#include <functional>
#include <sstream>
#include <thread>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "tests/component/stack.h"
#include "tests/fakes/arrivals.h"
#include "tests/fakes/far_end.h"
#include "tests/fakes/front_end.h"
#include "tests/fakes/network.h"
#include "tests/fakes/sanitizer.h"
#include "tests/fakes/test_frame.h"

namespace everport::component {
namespace {

using fakes::FrontEnd;
using testing::HasSubstr;
using testing::Not;

constexpr size_t kFrame = 600;
constexpr uint64_t kWindow = 128;          // frames under way: less than any queue on the way holds
constexpr unsigned kDevice = 0, kTap = 1;  // uplinks

bool WaitUntil(const std::function<bool()>& condition, absl::Duration timeout = absl::Seconds(10)) {
  const absl::Time deadline = absl::Now() + timeout;
  while (!condition()) {
    if (absl::Now() > deadline) return false;
    absl::SleepFor(absl::Milliseconds(2));
  }
  return true;
}

class VdpaTest : public testing::Test {
 protected:
  void SetUp() override {
    static const bool once =
        (fakes::EnterOwnNetwork(), fakes::Shell("ip link add vdw0 type veth peer name vdw1"), true);
    ASSERT_TRUE(once);
    for (const char* end : {"vdw0", "vdw1"}) fakes::SetLinkUp(end, true);
    stack_.options().daemon_environment = {absl::StrCat("LD_PRELOAD=", FAKE_VDPA_DRIVER), "FAKE_VDPA_WIRE=vdw0",
                                           absl::StrCat("FAKE_VDPA_DIR=", stack_.dir() / "")};
    if (fakes::kSanitized) stack_.options().daemon_environment.push_back("ASAN_OPTIONS=verify_asan_link_order=0");
  }
  void StartWith(const std::string& device, fakes::FrontEndOptions options = {}) {
    stack_.AddPort({.name = "vm",
                    .uplink_kind = "vdpa",
                    .uplink_device = device,
                    .mac = "52:54:00:00:ee:12",
                    .failback_delay_ms = 100,
                    .more_uplinks = {{"tap", "vdtap"}}});
    if (wire_) {
      stack_.ports().back().more_uplinks.push_back({"port", "peer"});
      stack_.AddPort({.name = "peer", .uplink_kind = "port", .uplink_device = "vm"});
    }
    stack_.AddPort({.name = "other", .uplink_kind = "tap", .uplink_device = "vdtap2"});
    ASSERT_OK(stack_.Start());
    vm_ = Connect("vm", options);
    ASSERT_TRUE(vm_);
    ASSERT_TRUE(WaitUntil([] { return if_nametoindex("vdtap") != 0; })) << stack_.Logs();
    for (const char* interface : {"vdw1", "vdtap"}) {
      auto end = fakes::PacketFarEnd::Open(interface);
      ASSERT_TRUE(end.ok()) << end.status();
      ends_.push_back(*std::move(end));
    }
  }
  std::unique_ptr<FrontEnd> Connect(const std::string& port, fakes::FrontEndOptions options = {}) {
    options.socket = stack_.Socket(port);
    auto end = std::make_unique<FrontEnd>(options);
    const absl::Status connected = end->Connect(absl::Seconds(10));
    EXPECT_TRUE(connected.ok()) << connected << stack_.Logs();
    return connected.ok() ? std::move(end) : nullptr;
  }

  absl::Status Switch(unsigned path) const {
    return stack_.Post("/v1/ports/vm/path", absl::StrCat("{\"index\": ", path, "}"));
  }
  std::string View(const std::string& port = "vm") const {
    const auto view = stack_.Get("/v1/ports/" + port);
    return view.ok() ? boost::json::serialize(*view) : std::string(view.status().message());
  }
  bool On(unsigned path) const {
    const auto view = stack_.Get("/v1/ports/vm");
    return view.ok() && view->as_object().at("state") == "running" &&
           view->at("path").as_object().at("index") == static_cast<int>(path);
  }
  std::string Events() const { return stack_.GetText("/v1/events?follow=no").value_or(""); }
  void Mark(const char* file, const std::string& text = "") { stack_.dir().Write(file, text); }
  void Unmark(const char* file) { unlink((stack_.dir() / file).c_str()); }
  std::string Calls() const {
    std::ifstream file(stack_.dir() / "calls");
    return (std::ostringstream() << file.rdbuf()).str();
  }
  unsigned CallsOf(const std::string& name) const {
    std::istringstream lines(Calls());
    unsigned count = 0;
    for (std::string line; std::getline(lines, line);) count += line.starts_with(name);
    return count;
  }

  // One round of everybody's business.
  void Round(bool sending) {
    for (unsigned path : {kDevice, kTap}) {
      ends_[path]->Poll([&](std::span<const uint8_t> frame) { out_.Saw(frame, path); });
    }
    vm_->tx(0).PollUsed();
    std::vector<uint8_t> frame(kFrame);
    for (int i = 0; i < 32 && sending && sent_ - out_.received < kWindow; ++i) {
      fakes::FillTestFrame(frame, 1, sent_);
      if (!vm_->tx(0).Send(frame)) break;
      ++sent_;
    }
    vm_->FlushTx(0);
    vm_->rx(0).Poll([&](std::span<const uint8_t> got, const fakes::NetHeader&) {
      const auto id = fakes::CheckTestFrame(got);
      if (id && id->stream == 3) {
        ++wired_;
      } else {
        in_.Saw(got, 0);
      }
    });
    vm_->rx(0).AddBuffers();
    vm_->FlushRx(0);
    for (int i = 0; i < 8 && sending && in_sent_ < in_.received + in_lost_ + kWindow; ++i) {
      fakes::FillTestFrame(frame, 2, in_sent_);
      if (!ends_[out_.last_path]->Send(frame)) break;
      ++in_sent_;
    }
    if (in_.received != in_last_) {
      in_last_ = in_.received;
      in_moved_ = absl::Now();
    } else if (absl::Now() - in_moved_ > absl::Milliseconds(20)) {
      in_lost_ = in_sent_ - in_.received;  // what is under way is not coming any more
      in_moved_ = absl::Now();
    }
    arrived_.store(out_.received, std::memory_order_relaxed);
  }
  // Sends `frames` more through `path`; false if they do not arrive there.
  bool Carries(unsigned path, uint64_t frames = 500) {
    const absl::Time deadline = absl::Now() + absl::Seconds(10);
    const uint64_t until = out_.received + frames;
    while (out_.received < until && absl::Now() < deadline) Round(true);
    while (out_.received < sent_ && absl::Now() < deadline) Round(false);
    if (out_.received == sent_ && out_.last_path == path) return true;
    std::printf("%lu frames arrived of %lu, the last ones by uplink %u; %lu doubled\n", out_.received, sent_,
                out_.last_path, out_.doubled);
    return false;
  }

  bool wire_ = false;  // a further uplink to another guest
  Stack stack_;
  std::unique_ptr<FrontEnd> vm_;
  std::vector<std::unique_ptr<fakes::PacketFarEnd>> ends_;  // by uplink
  fakes::Arrivals out_{2}, in_;
  uint64_t sent_ = 0, in_sent_ = 0, in_last_ = 0, in_lost_ = 0, wired_ = 0;
  absl::Time in_moved_ = absl::Now();
  std::atomic<uint64_t> arrived_{0};
};

// A switch to or from the device takes the session up anew in another thread: the port may be removed at any point of
// that, and the device must be free for the next one.
TEST_F(VdpaTest, APortRemovedInTheMiddleOfASwitchLeavesTheOthersAndItsDeviceToTheNext) {
  constexpr int kRounds = 24;
  stack_.AddPort({.name = "other", .uplink_kind = "tap", .uplink_device = "vdtap2"});
  ASSERT_OK(stack_.Start());
  const auto other = Connect("other");
  ASSERT_TRUE(other);
  ASSERT_TRUE(WaitUntil([&] { return stack_.PortState("other") == "running"; })) << stack_.Logs();
  int switched = 0, cut_off = 0;
  for (int round = 0; round < kRounds; ++round) {
    vm_.reset();  // it would be found again at its socket
    const unsigned from = round % 2 == 0 ? kDevice : kTap;
    const std::string uplinks[] = {R"({"kind":"vdpa","device":"fake-vdpa0"})", R"({"kind":"tap","device":"vdtap"})"};
    ASSERT_OK(stack_.Post("/v1/ports", absl::StrCat(R"({"name":"vm","socket":")", stack_.Socket("vm"),
                                                    R"(","uplink":[)", uplinks[0], ",", uplinks[1], "]}")));
    vm_ = Connect("vm");
    ASSERT_TRUE(vm_);
    // Until it is there, another switch is under way.
    ASSERT_TRUE(WaitUntil([&] { return Switch(from).ok() && On(from); })) << round << View() << stack_.Logs();
    absl::Status answer;
    std::thread switching([&] { answer = Switch(from == kDevice ? kTap : kDevice); });
    absl::SleepFor(absl::Milliseconds(2 * (round / 2)));  // at another point of it each time
    const absl::Status removed = stack_.Delete("/v1/ports/vm");
    switching.join();
    ASSERT_TRUE(removed.ok()) << removed << stack_.Logs();
    answer.ok() ? ++switched : ++cut_off;
    EXPECT_TRUE(answer.ok() || answer.message().find("port vm: ") != std::string::npos) << answer;
    ASSERT_TRUE(stack_.daemon().running()) << stack_.Logs();
    ASSERT_TRUE(WaitUntil([&] { return CallsOf("closed") == CallsOf("configured"); })) << Calls() << stack_.Logs();
  }
  std::printf("%d switches were through before the port went, %d were not\n", switched, cut_off);
  EXPECT_GT(cut_off, 0) << "none was cut off in the middle";
  EXPECT_EQ(stack_.PortState("other"), "running");
  EXPECT_EQ(stack_.PortNumber("other", "sessions"), 1);
  EXPECT_FALSE(other->socket().closed());
  if (HasFailure()) std::printf("%s\n", stack_.Logs().c_str());
}

TEST_F(VdpaTest, TheGuestMovesBetweenDeviceAndTapAndLosesNothing) {
  constexpr unsigned kSwitches = 100;
  StartWith("fake-vdpa0");
  ASSERT_TRUE(WaitUntil([&] { return On(kDevice); })) << View() << stack_.Logs();
  EXPECT_THAT(View(), HasSubstr(R"("mode":"offload")"));
  EXPECT_EQ(stack_.PortNumber("vm", "poller"), -1);
  ASSERT_TRUE(Carries(kDevice)) << stack_.Logs();
  EXPECT_THAT(Calls(), HasSubstr("ring 1 desc 1 size 256"));

  std::atomic<bool> finished{false}, failed{false};
  absl::Status failure;
  unsigned done = 0, refused = 0;
  // On a busy machine the device, which is a thread here, may stall for long enough to be left: then once more.
  const auto make = [&](unsigned path) {
    return WaitUntil([&] {
      if (failed || (failure = Switch(path)).ok() || On(path)) return true;
      ++refused;
      return false;
    });
  };
  std::thread switching([&] {
    for (; done < kSwitches && !failed; ++done) {
      const uint64_t before = arrived_.load();
      while (arrived_.load() < before + 40 && !failed) absl::SleepFor(absl::Microseconds(100));
      if (!make(done % 2 == 0 ? kTap : kDevice)) break;
    }
    finished = true;
  });
  uint64_t last = 0;
  for (absl::Time moved = absl::Now(); !finished;) {
    Round(true);
    if (out_.received != std::exchange(last, out_.received)) moved = absl::Now();
    if (absl::Now() - moved > absl::Seconds(5)) failed = true;  // it stands still
  }
  switching.join();
  const absl::Time deadline = absl::Now() + absl::Seconds(5);
  while (out_.received < sent_ && absl::Now() < deadline) Round(false);

  EXPECT_EQ(done, kSwitches) << failure;
  EXPECT_EQ(out_.Missing(sent_), 0u) << "of " << sent_;
  EXPECT_EQ(out_.doubled, 0u);
  EXPECT_EQ(out_.overtaken, 0u);
  EXPECT_EQ(in_.doubled, 0u);
  EXPECT_EQ(out_.corrupted + in_.corrupted, 0u);
  EXPECT_GT(in_.received, kSwitches) << "frames reach the guest as well";
  EXPECT_GE(CallsOf("configured"), 1 + kSwitches / 2);
  EXPECT_EQ(CallsOf("closed") + (On(kDevice) ? 1 : 0), CallsOf("configured"));
  // The guest's session is the one it was: QEMU has seen nothing.
  EXPECT_EQ(stack_.PortNumber("vm", "sessions"), 1);
  std::vector<double> gaps = out_.Gaps();
  std::printf(
      "%u switches (%u refusals at first), %lu frames out (%lu lost), %lu in (%lu lost); gap at the sink, "
      "median/longest: %.1f/%.1f ms\n",
      done, refused, sent_, out_.Missing(sent_), in_sent_, in_.Missing(in_sent_),
      gaps.empty() ? 0 : gaps[gaps.size() / 2], gaps.empty() ? 0 : gaps.back());
  if (HasFailure()) std::printf("%s\n%s\n", View().c_str(), stack_.Logs().c_str());
}

TEST_F(VdpaTest, ADriverThatRefusesTheRingsIsAnsweredByTheNextUplink) {
  Mark("refuse");
  StartWith("fake-vdpa0");
  ASSERT_TRUE(WaitUntil([&] { return On(kTap); })) << View() << stack_.Logs();
  ASSERT_TRUE(WaitUntil([&] { return CallsOf("refused") > 0; }));
  EXPECT_TRUE(Carries(kTap)) << stack_.Logs();
  EXPECT_THAT(Events(), HasSubstr("vdpa fake-vdpa0: its driver did not take the guest's rings"));
  Unmark("refuse");
  EXPECT_TRUE(WaitUntil([&] { return On(kDevice); })) << View() << Events();
  EXPECT_TRUE(Carries(kDevice)) << stack_.Logs();
}

TEST_F(VdpaTest, ADeviceThatStallsIsLeftAndNothingIsLost) {
  StartWith("fake-vdpa0");
  ASSERT_TRUE(WaitUntil([&] { return On(kDevice); })) << View() << stack_.Logs();
  ASSERT_TRUE(Carries(kDevice));
  Mark("deaf");
  EXPECT_TRUE(Carries(kTap)) << View() << Events();
  EXPECT_EQ(out_.doubled, 0u);
  EXPECT_THAT(
      Events(),
      HasSubstr("uplink 0 failed: vdpa fake-vdpa0: transmit stalled; it is opened anew; if it stalls again, see "));
}

// Else two would write to the same rings.
TEST_F(VdpaTest, AWireDoesNotSendToAGuestThatADeviceServes) {
  wire_ = true;
  StartWith("fake-vdpa0");
  const auto peer = Connect("peer");
  ASSERT_TRUE(peer);
  ASSERT_TRUE(WaitUntil([&] { return On(kDevice) && stack_.PortState("peer") == "running"; })) << View();
  const auto send = [&](uint64_t from) {  // some frames over the wire, and what became of them
    std::vector<uint8_t> frame(kFrame);
    for (uint64_t i = from; i < from + 64; ++i) {
      fakes::FillTestFrame(frame, 3, i);
      if (!peer->tx(0).Send(frame)) break;
    }
    peer->FlushTx(0);
    return WaitUntil([&] { return peer->tx(0).PollUsed(), peer->tx(0).ring().account().outstanding() == 0; });
  };
  ASSERT_TRUE(Carries(kDevice)) << stack_.Logs();  // from now on there are buffers to be received into
  ASSERT_TRUE(send(0)) << "they are taken, and dropped";
  ASSERT_TRUE(Carries(kDevice)) << stack_.Logs();
  EXPECT_EQ(wired_, 0u);
  ASSERT_TRUE(Switch(kTap).ok());
  ASSERT_TRUE(Carries(kTap)) << stack_.Logs();
  EXPECT_EQ(wired_, 0u);
  ASSERT_TRUE(send(64));
  ASSERT_TRUE(Carries(kTap));
  EXPECT_EQ(wired_, 64u);
  EXPECT_EQ(out_.doubled, 0u);
}

TEST_F(VdpaTest, AGuestThatNeedsMoreThanTheDeviceHasIsServedByTheTap) {
  StartWith("fake-vdpa0", {.event_idx = true});
  ASSERT_TRUE(WaitUntil([&] { return On(kTap); })) << View() << stack_.Logs();
  EXPECT_TRUE(Carries(kTap));
  EXPECT_THAT(View(), HasSubstr("vdpa fake-vdpa0 cannot serve this guest: the device lacks VIRTIO_RING_F_EVENT_IDX"));
  EXPECT_EQ(CallsOf("configured"), 0u);
  EXPECT_FALSE(Switch(kDevice).ok());
}

TEST_F(VdpaTest, PackedRingsAreRefused) {
  Mark("features", "ffffffffffffffff");
  StartWith("fake-vdpa0", {.packed = true});
  ASSERT_TRUE(WaitUntil([&] { return On(kTap); })) << View() << stack_.Logs();
  EXPECT_TRUE(Carries(kTap));
  EXPECT_THAT(View(), HasSubstr("the guest uses packed rings (VIRTIO_F_RING_PACKED), whose position would be lost"));
  EXPECT_EQ(CallsOf("configured"), 0u);
}

// What it negotiates then is not what the device was attached for.
TEST_F(VdpaTest, AGuestThatBootsAnewWithOtherFeaturesIsServed) {
  StartWith("fake-vdpa0");
  ASSERT_TRUE(WaitUntil([&] { return On(kDevice); })) << View() << stack_.Logs();
  vm_.reset();
  ASSERT_TRUE(WaitUntil([&] { return stack_.PortState("vm") == "waiting"; })) << View();
  vm_ = Connect("vm", {.event_idx = true});
  ASSERT_TRUE(vm_);
  ASSERT_TRUE(WaitUntil([&] { return On(kTap); })) << View() << stack_.Logs();
  EXPECT_TRUE(Carries(kTap)) << View() << stack_.Logs();
}

TEST_F(VdpaTest, AGuestThatStopsAndGoesOnIsOnTheDeviceAgain) {
  StartWith("fake-vdpa0");
  ASSERT_TRUE(WaitUntil([&] { return On(kDevice); })) << View() << stack_.Logs();
  ASSERT_TRUE(Carries(kDevice));
  ASSERT_TRUE(vm_->Stop().ok());
  ASSERT_TRUE(WaitUntil([&] { return CallsOf("closed") > 0; })) << Calls();
  ASSERT_TRUE(vm_->Resume().ok());
  ASSERT_TRUE(WaitUntil([&] { return CallsOf("configured") > 1 && On(kDevice); })) << View() << stack_.Logs();
  EXPECT_TRUE(Carries(kDevice)) << View() << stack_.Logs();
  EXPECT_EQ(out_.doubled, 0u);
}

// There is no way to send a frame beside the guest's: that is told, and made good by the next path that can.
TEST_F(VdpaTest, AnAnnouncementThatTheDeviceCannotSendIsTold) {
  constexpr uint8_t kAsked[6] = {0x52, 0x54, 0, 0, 0xee, 0x13};
  StartWith("fake-vdpa0");
  ASSERT_TRUE(WaitUntil([&] { return On(kDevice); })) << View() << stack_.Logs();
  const std::string told =
      "guest 52:54:00:00:ee:13 is not announced: vdpa fake-vdpa0, offload sends only what the guest sends";
  ASSERT_OK(vm_->SendRarp(kAsked));
  EXPECT_TRUE(WaitUntil([&] { return Events().find(told) != std::string::npos; })) << Events();
  auto rarp = fakes::PacketFarEnd::Open("vdtap", 0x8035);
  ASSERT_TRUE(rarp.ok()) << rarp.status();
  ASSERT_OK(Switch(kTap));
  bool heard = false;
  EXPECT_TRUE(WaitUntil([&] {
    Round(false);
    (*rarp)->Poll([&](std::span<const uint8_t> frame) { heard |= std::equal(kAsked, kAsked + 6, &frame[6]); });
    return heard;
  })) << Events();
}

TEST_F(VdpaTest, AKilledDaemonComesBackOnTheDevice) {
  StartWith("fake-vdpa0");
  ASSERT_TRUE(WaitUntil([&] { return On(kDevice); })) << View() << stack_.Logs();
  ASSERT_TRUE(Carries(kDevice));
  stack_.KillDaemon();
  ASSERT_OK(stack_.StartDaemon());
  ASSERT_TRUE(WaitUntil([&] { return On(kDevice); })) << View() << stack_.Logs();
  EXPECT_TRUE(Carries(kDevice)) << View() << stack_.Logs();
  EXPECT_EQ(out_.doubled, 0u);
}

TEST_F(VdpaTest, ADeviceThatIsNotThereIsNamedAndOtherPortsRun) {
  StartWith("0000:ff:1f.6");
  const auto other = Connect("other");
  ASSERT_TRUE(other);
  ASSERT_TRUE(WaitUntil([&] { return On(kTap) && stack_.PortState("other") == "running"; })) << View();
  EXPECT_TRUE(Carries(kTap));
  const std::string cause = "vdpa 0000:ff:1f.6: DPDK could not open it";
  const std::string mend = "name a device that `lspci -D` lists";
  EXPECT_THAT(View(), AllOf(HasSubstr(cause), HasSubstr(mend)));
  EXPECT_THAT(Events(), AllOf(HasSubstr(cause), HasSubstr(mend)));
  EXPECT_THAT(View("other"), Not(HasSubstr("vdpa")));
}

}  // namespace
}  // namespace everport::component
