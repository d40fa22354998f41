// A guest of VhostVdpaDevice for lab tests: everport's own code on the kernel's device, without a daemon around it.
// Says what came of it as a line of JSON: exact counts, the longest Start and Stop in ms.
// usage: vdpa_driver MODE NODE PAIRS FEATURES NUMBER, or vdpa_driver watch NODE
//   echo CYCLES     traffic through the device and a software echo in turns
//   stream CYCLES   traffic of its own each way, the device stopped and started
//   kill PID        the device's process killed under traffic; software goes on
//   hang PID        stopped (SIGSTOP), given up, continued; then another guest on it
//   watch           a line for each change of its health, until "removed"

#include <poll.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "backend/datapath/vhost_vdpa.h"
#include "tests/datapath/offload_guest.h"
#include "tests/fakes/test_frame.h"
#include "tests/lab/tools/soft_device.h"

namespace everport {
namespace {

constexpr absl::Duration kPatience = absl::Seconds(30);
constexpr unsigned kFramesPerPhase = 2000;
constexpr size_t kFrameBytes = 200;

[[noreturn]] void Die(const std::string& why) {
  std::fprintf(stderr, "vdpa_driver: %s\n", why.c_str());
  std::_Exit(1);
}
void Require(const absl::Status& status) {
  if (!status.ok()) Die(status.ToString());
}

// The guest's half: keeps receive rings full, sends numbered frames, stream = queue pair, and keeps the books.
class Traffic {
 public:
  explicit Traffic(OffloadGuest& guest) : guest_(guest), sequence_(guest.pairs().size()) {}

  bool Round(bool send) {
    unsigned moved = 0;
    for (unsigned p = 0; p < sequence_.size(); ++p) {
      auto& pair = guest_.pairs()[p];
      returned += pair.tx->PollUsed();
      moved += pair.rx->Poll([this](auto frame, const auto&) { ledger.Saw(frame); });
      pair.rx->AddBuffers();
      uint8_t frame[kFrameBytes];
      for (int i = 0; send && i < 32; ++i) {
        fakes::FillTestFrame(frame, p, sequence_[p]);
        if (!pair.tx->Send(frame)) break;
        ++sequence_[p];
        ++sent;
        ++moved;
      }
      guest_.Publish(p);
    }
    return moved > 0;
  }

  // Rounds until `done`, with `serve` between them; Die if it takes too long.
  void Run(bool send, const char* what, const std::function<bool()>& done,
           const std::function<unsigned()>& serve = {}) {
    const absl::Time deadline = absl::Now() + kPatience;
    while (!done()) {
      bool moved = Round(send);
      if (serve && serve() > 0) moved = true;
      if (!moved) ::usleep(50);
      if (absl::Now() > deadline) Die(absl::StrCat(what, ": not within 30 s; ", Counts()));
    }
  }
  // Until as many frames more have come back to the guest (echo), or been taken from it and come (stream).
  void Phase(const char* what, const std::function<unsigned()>& serve = {}) {
    const uint64_t received = ledger.received, taken = returned;
    Run(
        true, what,
        [&] { return ledger.received >= received + kFramesPerPhase && returned >= taken + kFramesPerPhase; }, serve);
  }

  std::string Counts() const {
    uint64_t unknown = 0, misordered = 0, outstanding = 0;
    for (unsigned v = 0; v < 2 * sequence_.size(); ++v) {
      const auto& account = guest_.ring(v).account();
      unknown += account.unknown;
      misordered += account.misordered;
      if (v % 2 == 1) outstanding += account.outstanding();
    }
    return absl::StrCat("\"sent\": ", sent, ", \"returned\": ", returned, ", \"outstanding\": ", outstanding,
                        ", \"received\": ", ledger.received, ", \"missing\": ", ledger.missing,
                        ", \"repeated\": ", ledger.repeated, ", \"corrupted\": ", ledger.corrupted,
                        ", \"unknown\": ", unknown, ", \"misordered\": ", misordered);
  }

  uint64_t sent = 0, returned = 0;
  fakes::FrameLedger ledger;

 private:
  OffloadGuest& guest_;
  std::vector<uint64_t> sequence_;  // by queue pair
};

// A signal takes its time to reach all threads of a process.
void WaitStopped(pid_t pid) {
  const absl::Time deadline = absl::Now() + kPatience;
  const auto stopped = [](const std::filesystem::path& thread) {
    std::string stat;
    std::getline(std::ifstream(thread / "stat"), stat);
    const size_t name_end = stat.rfind(')');  // "PID (NAME) STATE …"
    return name_end != std::string::npos && stat.compare(name_end + 1, 2, " T") == 0;
  };
  for (bool all = false; !all; ::usleep(1000)) {
    const std::filesystem::directory_iterator threads(absl::StrCat("/proc/", pid, "/task"));
    all = std::all_of(begin(threads), end(threads), stopped);
    if (absl::Now() > deadline) Die(absl::StrCat("process ", pid, " does not stop"));
  }
}

class Driver {
 public:
  Driver(std::string node, unsigned pairs, uint64_t features)
      : node_(std::move(node)), guest_({.queue_pairs = pairs, .features = features}), traffic_(guest_) {
    Open();
  }

  void Open() {
    auto device = VhostVdpaDevice::Open(node_);
    Require(device.status());
    device_ = *std::move(device);
  }
  void Start() {
    CheckLeftAlone();
    left_.clear();
    const absl::Time before = absl::Now();
    Require(device_->Start(guest_.Rings()));
    start_ms_ = std::max(start_ms_, absl::ToDoubleMilliseconds(absl::Now() - before));
  }
  absl::Status Stop() {
    GuestRings rings = guest_.Rings();
    const absl::Time before = absl::Now();
    const absl::Status status = device_->Stop(rings);
    stop_ms_ = std::max(stop_ms_, absl::ToDoubleMilliseconds(absl::Now() - before));
    for (const auto& ring : rings.rings) left_.push_back(ring.used_base);
    CheckLeftAlone();
    guest_.Take(rings);
    in_flight_ += status.code() == absl::StatusCode::kAborted;
    return status;
  }
  void StopCleanly() {
    const absl::Status status = Stop();
    if (status.code() != absl::StatusCode::kAborted) Require(status);
  }
  // Nobody has the rings between a stop and who comes next: their used indices stay what they were.
  void CheckLeftAlone() {
    for (unsigned v = 0; v < left_.size(); ++v) wrong_ += left_[v] != guest_.used_index(v);
  }
  // Echoes in software: a number of frames, or all that there are.
  void Software(bool drain) {
    CheckLeftAlone();
    left_.clear();
    GuestRings rings = guest_.Rings();
    SoftDevice soft(rings);
    const auto serve = [&] { return soft.RunOnce(); };
    if (drain) {
      traffic_.Run(
          false, "draining", [&] { return traffic_.returned == traffic_.sent; }, serve);
      traffic_.Round(false);
    } else {
      traffic_.Phase("software echo", serve);
    }
    soft.Stop(rings);
    guest_.Take(rings);
  }

  void Echo(int cycles) {
    for (int i = 0; i < cycles; ++i) {
      Start();
      traffic_.Phase("echo by the device");
      StopCleanly();
      Software(i + 1 == cycles);
    }
  }
  void Stream(int cycles) {
    for (int i = 0; i < cycles; ++i) {
      Start();
      traffic_.Phase("traffic each way");
      if (i + 1 == cycles) {
        traffic_.Run(false, "draining", [&] { return traffic_.returned == traffic_.sent; });
        StopCleanly();
        traffic_.Round(false);
      } else {
        StopCleanly();
      }
    }
  }
  void Kill(pid_t pid) {
    Start();
    traffic_.Phase("echo before the kill");
    ::kill(pid, SIGKILL);
    while (::kill(pid, 0) == 0) traffic_.Round(true);  // until it has been reaped
    traffic_.Round(true);
    device_->Suspect();
    ExpectGivenUp();
    Software(false);
    Software(true);
  }
  // Leaves the device to who comes next. This guest is of no use afterwards: the process writes to its rings when it
  // goes on, from where it was, until it hears of its reset (see VhostVdpaDevice).
  void Hang(pid_t pid) {
    Start();
    traffic_.Phase("echo before the halt");
    ::kill(pid, SIGSTOP);
    device_->Suspect();
    WaitStopped(pid);
    ExpectGivenUp();
    Software(false);
    ::kill(pid, SIGCONT);
    device_.reset();
    const absl::Time deadline = absl::Now() + kPatience;
    for (auto again = VhostVdpaDevice::Open(node_); !again.ok(); again = VhostVdpaDevice::Open(node_)) {
      if (absl::Now() > deadline) Die(again.status().ToString());
      ::usleep(10000);
    }
  }

  double stop_ms() const { return stop_ms_; }
  std::string Result() const {
    return absl::StrCat("{", traffic_.Counts(), ", \"wrong_positions\": ", wrong_,
                        ", \"in_flight_stops\": ", in_flight_, ", \"start_ms\": ", start_ms_,
                        ", \"stop_ms\": ", stop_ms_, ", \"queue_pairs\": ", device_->info().max_queue_pairs,
                        ", \"features\": ", device_->device_features(),
                        ", \"backend_features\": ", device_->info().backend_features, "}");
  }

 private:
  void ExpectGivenUp() {
    const absl::Status status = Stop();
    if (status.code() != absl::StatusCode::kDeadlineExceeded || device_->trouble() != Trouble::kError)
      Die(absl::StrCat("a device whose process does not run was stopped: ", status.ToString()));
  }

  const std::string node_;
  OffloadGuest guest_;
  Traffic traffic_;
  std::unique_ptr<VhostVdpaDevice> device_;
  double start_ms_ = 0, stop_ms_ = 0;
  std::vector<uint16_t> left_;  // used indices at the last stop, until somebody has the rings again
  unsigned wrong_ = 0, in_flight_ = 0;
};

int Watch(const std::string& node) {
  auto device = VhostVdpaDevice::Open(node);
  Require(device.status());
  std::puts("open");
  std::fflush(stdout);
  while ((*device)->trouble() != Trouble::kRemoved) {
    pollfd changed{(*device)->event_fd(), POLLIN, 0};
    if (::poll(&changed, 1, 30000) != 1) Die("no change within 30 s");
    eventfd_t count;
    ::eventfd_read(changed.fd, &count);
    std::puts(std::string(TroubleText((*device)->trouble())).c_str());
    std::fflush(stdout);
  }
  return 0;
}

}  // namespace
}  // namespace everport

int main(int argc, char** argv) {
  using namespace everport;
  const std::string mode = argc > 2 ? argv[1] : "";
  if (mode == "watch") return Watch(argv[2]);
  if (argc != 6) Die("see the usage in its source");
  Driver driver(argv[2], static_cast<unsigned>(std::stoul(argv[3])), std::stoull(argv[4], nullptr, 0));
  const int number = std::stoi(argv[5]);
  if (mode == "echo") driver.Echo(number);
  if (mode == "stream") driver.Stream(number);
  if (mode == "kill") driver.Kill(number);
  if (mode == "hang") {
    driver.Hang(number);
    Driver again(argv[2], static_cast<unsigned>(std::stoul(argv[3])), 0);
    again.Echo(3);
    std::printf("{\"given_up_ms\": %g, \"then\": %s}\n", driver.stop_ms(), again.Result().c_str());
  } else {
    std::puts(driver.Result().c_str());
  }
  std::fflush(stdout);
  return 0;
}
