// One uplink without a daemon around it: opens it, tells what it says of itself, closes and opens it anew when it must
// be. For lab tests that want to know when a device says something, and what that costs.
// usage: everport-uplink-probe KIND DEVICE MAC [bind] [ordinary]     ends when stdin does
// stdout: one event a line, with the milliseconds of CLOCK_MONOTONIC in front:
//   5012.3 eal 150.1      EAL is up; milliseconds that it took
//   5240.1 opened 200.5 ms, …
//   5240.2 trouble well   and so on, when it changes
//   5300.0 closed 30.1    the trouble was such that it was closed; milliseconds that it took
//   5400.0 failed TEXT    it cannot be opened: said when the text is another
#include <poll.h>
#include <time.h>
#include <unistd.h>

#include <cstdio>
#include <iostream>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "backend/base/log.h"
#include "backend/datapath/eal.h"
#include "backend/datapath/ethdev_endpoint.h"
#include "backend/datapath/mempools.h"
#include "backend/datapath/uplink.h"

namespace everport {
namespace {

class Probe {
 public:
  explicit Probe(PortConfig port) : port_(std::move(port)) {}

  void Step() {
    if (!uplink_ && absl::Now() >= retry_at_) Open();
    if (uplink_) Look();
  }
  void Say(const std::string& text) const {
    timespec now{};
    clock_gettime(CLOCK_MONOTONIC, &now);
    std::printf("%.1f %s\n", static_cast<double>(now.tv_sec) * 1e3 + static_cast<double>(now.tv_nsec) / 1e6,
                text.c_str());
    std::fflush(stdout);
  }

 private:
  void Open() {
    const absl::Time before = absl::Now();
    auto uplink = OpenUplink(port_, port_.uplinks[0], -1, mempools_, [](const std::string&) { return WirePeer{}; });
    retry_at_ = absl::Now() + absl::Milliseconds(100);
    if (!uplink.ok()) {
      if (const std::string text(uplink.status().message()); text != said_) Say("failed " + (said_ = text));
      return;
    }
    said_.clear();
    uplink_ = std::move(*uplink);
    const OffloadCaps caps = uplink_->endpoint->transmit_caps();
    Say(absl::StrCat("opened ", absl::ToDoubleMilliseconds(absl::Now() - before), " ms, queues ",
                     uplink_->endpoint->receive_queues(), ", checksum ", caps.l4_checksum ? 1 : 0, ", tso ",
                     caps.tso4 ? 1 : 0));
    last_ = "";
  }
  void Look() {
    auto* endpoint = static_cast<EthdevEndpoint*>(uplink_->endpoint.get());
    const Trouble trouble = endpoint->trouble();
    if (const std::string text(TroubleText(trouble)); text != last_) Say("trouble " + (last_ = text));
    if (!NeedsReopening(trouble)) return;
    const absl::Time before = absl::Now();
    uplink_.reset();
    Say(absl::StrCat("closed ", absl::ToDoubleMilliseconds(absl::Now() - before)));
  }

  const PortConfig port_;
  Mempools mempools_;
  std::unique_ptr<Uplink> uplink_;
  absl::Time retry_at_ = absl::InfinitePast();
  std::string said_, last_;
};

int Run(std::vector<std::string> args) {
  const absl::Time start = absl::Now();
  PortConfig port;
  port.name = "probe";
  port.mac = args[2];
  UplinkConfig uplink;
  const auto kind = ParseUplinkKind(args[0]);
  if (!kind.ok()) return 2;
  uplink.kind = *kind;
  uplink.device = args[1];
  EalOptions options;
  for (size_t i = 3; i < args.size(); ++i) {
    if (args[i] == "bind") uplink.bind = true;
    if (args[i] == "ordinary") options.memory = DaemonConfig::Memory::kOrdinary;
  }
  port.uplinks = {uplink};
  if (absl::Status status = InitEal(options); !status.ok()) {
    std::cerr << status << "\n";
    return 1;
  }
  Probe probe(port);
  probe.Say(absl::StrCat("eal ", absl::ToDoubleMilliseconds(absl::Now() - start)));
  pollfd end{STDIN_FILENO, POLLIN, 0};
  while (poll(&end, 1, 1) == 0) probe.Step();
  return 0;
}

}  // namespace
}  // namespace everport

int main(int argc, char** argv) {
  if (argc < 4) {
    std::cerr << "usage: everport-uplink-probe KIND DEVICE MAC [bind] [ordinary]\n";
    return 2;
  }
  return everport::Run(std::vector<std::string>(argv + 1, argv + argc));
}
