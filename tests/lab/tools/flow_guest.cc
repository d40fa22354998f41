// A guest on a vhost-user socket and the network at the far ends of its port's uplinks, in one process: numbered frames
// go both ways, and every one of them is accounted for, with times of one clock.
// usage: flow_guest SOCKET GUEST_MAC PEER_MAC RATE NAME…     RATE: frames a second each way, NAME: of a far end
// To the guest the network sends by the far end where it was heard last, as a switch does, and only while it is heard.
// Commands on stdin, each answered by a line of JSON (times are milliseconds of CLOCK_MONOTONIC):
//   attach NAME INTERFACE   that far end is this network interface from now on
//   look                    how many frames have been seen so far in this phase, where
//   phase                   the books of this phase, when nothing is under way any more; a new one begins
// At the end of file it ends.

#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "backend/host/netlink.h"
#include "tests/fakes/arrivals.h"
#include "tests/fakes/far_end.h"
#include "tests/fakes/front_end.h"
#include "tests/fakes/test_frame.h"

namespace everport {
namespace {

constexpr int64_t kMs = 1000000;
constexpr int64_t kQuiet = 200 * kMs;     // nothing has come for as long: nothing is under way
constexpr int64_t kGivenUp = 20 * kMs;    // likewise: what is under way to the guest is lost
constexpr int64_t kWindow = 200;          // frames under way to the guest: less than its ring holds
constexpr int64_t kForgotten = 10 * kMs;  // a guest that was not heard for as long is not sent to
constexpr int64_t kPause = kMs;           // longer than a round takes
constexpr uint64_t kMostAtOnce = 32;
constexpr size_t kFrameBytes = 200;
constexpr uint32_t kFromGuest = 1, kToGuest = 2;

using fakes::MonotonicNs;

[[noreturn]] void Die(const std::string& why) {
  std::fprintf(stderr, "flow_guest: %s\n", why.c_str());
  std::_Exit(1);
}
double Ms(int64_t ns) {
  return static_cast<double>(ns) / kMs;
}

std::array<uint8_t, 6> Mac(const std::string& text) {
  std::array<uint8_t, 6> mac;
  if (std::sscanf(text.c_str(), "%hhx:%hhx:%hhx:%hhx:%hhx:%hhx", &mac[0], &mac[1], &mac[2], &mac[3], &mac[4],
                  &mac[5]) != 6)
    Die(absl::StrCat(text, " is no MAC"));
  return mac;
}

// Frames that are due at a steady rate. What was missed by more than a burst is not made up for.
class Pace {
 public:
  explicit Pace(double rate) : interval_(static_cast<int64_t>(1e9 / rate)) {}
  bool Due(int64_t now) {
    if (now < next_) return false;
    next_ = std::max(next_ + interval_, now - static_cast<int64_t>(kMostAtOnce) * interval_);
    return true;
  }

 private:
  const int64_t interval_;
  int64_t next_ = 0;
};

// What network devices go through, as the kernel tells it.
class Links {
 public:
  Links() {
    auto fd = netlink::Open(RTMGRP_LINK);
    if (!fd.ok()) Die(fd.status().ToString());
    fd_ = *std::move(fd);
  }
  void Poll() {
    uint8_t data[32768];
    for (ssize_t size; (size = ::recv(fd_.get(), data, sizeof data, MSG_DONTWAIT)) > 0;) {
      netlink::ForEachMessage(data, static_cast<size_t>(size), [this](const nlmsghdr& message) {
        if (const auto link = netlink::ParseLink(message)) Note(*link, message.nlmsg_type == RTM_DELLINK);
      });
    }
  }
  std::string TakeJson() { return absl::StrCat("[", absl::StrJoin(std::exchange(told_, {}), ", "), "]"); }

 private:
  void Note(const netlink::Link& link, bool gone) {
    const std::string is = gone ? "gone" : link.running ? "running" : "not running";
    if (std::exchange(state_[link.name], is) != is)
      told_.push_back(absl::StrCat("[", Ms(MonotonicNs()), ", \"", link.name, "\", \"", is, "\"]"));
  }
  UniqueFd fd_;
  std::map<std::string, std::string> state_;
  std::vector<std::string> told_;
};

class FlowGuest {
 public:
  FlowGuest(const std::string& socket, const std::string& guest_mac, const std::string& peer_mac, double rate,
            std::vector<std::string> names)
      : guest_({.socket = socket}),
        guest_mac_(Mac(guest_mac)),
        peer_mac_(Mac(peer_mac)),
        names_(std::move(names)),
        ends_(names_.size()),
        out_pace_(rate),
        in_pace_(rate) {
    NewBooks();
  }

  void Connect() {
    if (absl::Status status = guest_.Connect(absl::Seconds(60)); !status.ok()) Die(status.ToString());
    std::puts("{\"connected\": true}");
    std::fflush(stdout);
  }

  // Until the end of file.
  void Run() {
    last_round_ = MonotonicNs();
    while (open_) {
      Round();
      for (std::string line = TakeLine(); !line.empty(); line = TakeLine()) {
        std::puts(Answer(line).c_str());
        std::fflush(stdout);
      }
    }
  }

 private:
  void NewBooks() {
    out_ = fakes::Arrivals(static_cast<unsigned>(names_.size()), out_sent_);
    in_ = fakes::Arrivals(1, in_sent_);
    out_began_ = out_sent_;
    in_began_ = in_settled_ = in_sent_;
    began_ = MonotonicNs();
    pauses_.clear();
  }

  void Round() {
    const int64_t now = MonotonicNs();
    if (now - last_round_ > kPause) pauses_.push_back(absl::StrCat("[", Ms(last_round_), ", ", Ms(now), "]"));
    last_round_ = now;
    links_.Poll();
    for (unsigned i = 0; i < ends_.size(); ++i) {
      if (ends_[i]) ends_[i]->Poll([&](auto frame) { Heard(frame, i); });
    }
    guest_.tx(0).PollUsed();
    guest_.rx(0).Poll([this](auto frame, const auto&) { GuestGot(frame); });
    guest_.rx(0).AddBuffers();
    guest_.FlushRx(0);
    const bool sent = sending_ && SendDue(now);
    guest_.FlushTx(0);
    if (!sent) ::usleep(20);  // two host CPUs serve the whole VM
  }

  bool SendDue(int64_t now) {
    bool sent = false;
    for (; guest_.tx(0).ring().free_descriptors() > 0 && out_pace_.Due(now); sent = true) {
      uint8_t frame[kFrameBytes];
      Fill(frame, kFromGuest, out_sent_, peer_mac_, guest_mac_);
      if (guest_.tx(0).Send(frame)) ++out_sent_;
    }
    for (; Sendable(now) && in_pace_.Due(now); sent = true) {
      uint8_t frame[kFrameBytes];
      Fill(frame, kToGuest, in_sent_, guest_mac_, peer_mac_);
      if (!ends_[heard_]->Send(frame)) continue;
      ++in_sent_;
      in_sent_ns_ = now;
    }
    return sent;
  }
  // To the guest; less than none when some come that were given up.
  int64_t UnderWay() const { return static_cast<int64_t>(in_sent_ - in_.received - in_settled_); }
  bool Sendable(int64_t now) {
    if (now - std::max(in_.last_ns, in_sent_ns_) > kGivenUp) in_settled_ = in_sent_ - in_.received;
    return ends_[heard_] && now - heard_ns_ < kForgotten && UnderWay() < kWindow;
  }

  static void Fill(std::span<uint8_t> frame, uint32_t stream, uint64_t sequence, const std::array<uint8_t, 6>& to,
                   const std::array<uint8_t, 6>& from) {
    fakes::FillTestFrame(frame, stream, sequence);
    std::copy(to.begin(), to.end(), frame.begin());
    std::copy(from.begin(), from.end(), frame.begin() + 6);
  }

  void Heard(std::span<const uint8_t> frame, unsigned end) {
    const auto id = fakes::CheckTestFrame(frame);
    if (id && id->stream != kFromGuest) return;  // its own, that a bridge or a switch sent back
    out_.Saw(frame, end);
    heard_ = out_.last_path;
    heard_ns_ = MonotonicNs();
  }
  void GuestGot(std::span<const uint8_t> frame) {
    const auto id = fakes::CheckTestFrame(frame);
    if (id && id->stream != kToGuest) {
      others_.Saw(frame);
    } else {
      in_.Saw(frame, 0);
    }
  }

  std::string Phase() {
    sending_ = false;
    const int64_t stopped = MonotonicNs();
    while (MonotonicNs() - std::max({stopped, out_.last_ns, in_.last_ns}) < kQuiet) Round();
    std::string text =
        absl::StrCat("{\"began\": ", Ms(began_), ", \"ended\": ", Ms(stopped), ", \"pauses\": [",
                     absl::StrJoin(pauses_, ", "), "], \"outstanding\": ", guest_.tx(0).ring().account().outstanding(),
                     ", \"unknown\": ", guest_.TotalAccount().unknown, ", \"malformed\": ", guest_.rx(0).malformed(),
                     ", \"links\": ", links_.TakeJson(), ", \"out\": ", Books(out_, out_sent_ - out_began_, out_sent_),
                     ", \"in\": ", Books(in_, in_sent_ - in_began_, in_sent_),
                     ", \"others\": {\"received\": ", others_.received, ", \"missing\": ", others_.missing,
                     ", \"repeated\": ", others_.repeated, ", \"corrupted\": ", others_.corrupted, "}, \"paths\": {");
    for (unsigned i = 0; i < names_.size(); ++i) {
      const auto& path = out_.path(i);
      absl::StrAppend(&text, i ? ", \"" : "\"", names_[i], "\": {\"received\": ", path.received,
                      ", \"first\": ", Ms(path.first_ns), ", \"last\": ", Ms(path.last_ns),
                      ", \"runs\": ", path.runs.Json(), "}");
    }
    NewBooks();
    sending_ = true;
    return text + "}}";
  }
  static std::string Books(const fakes::Arrivals& books, uint64_t sent, uint64_t next) {
    return absl::StrCat("{\"first\": ", next - sent, ", \"sent\": ", sent, ", \"received\": ", books.received,
                        ", \"missing\": ", books.Missing(next), ", \"doubled\": ", books.doubled,
                        ", \"overtaken\": ", books.overtaken, ", \"late\": ", books.late,
                        ", \"corrupted\": ", books.corrupted, ", \"turns\": ", books.Gaps().size(),
                        ", \"gap_ms\": ", Ms(books.gap_to_ns - books.gap_from_ns),
                        ", \"gap_from\": ", Ms(books.gap_from_ns), ", \"gap_to\": ", Ms(books.gap_to_ns), "}");
  }

  std::string Look() {
    std::string text = absl::StrCat("{\"taken\": ", guest_.tx(0).ring().account().returned, ", \"in\": ", in_.received,
                                    ", \"others\": ", others_.received);
    for (unsigned i = 0; i < names_.size(); ++i)
      absl::StrAppend(&text, ", \"", names_[i], "\": ", out_.path(i).received);
    return text + "}";
  }

  std::string Answer(const std::string& line) {
    const std::vector<std::string> words = absl::StrSplit(line, ' ');
    if (words[0] == "phase") return Phase();
    if (words[0] == "look") return Look();
    if (words[0] == "log" && words.size() == 2) {
      const absl::Status status = words[1] == "on" ? guest_.StartLog() : guest_.StopLog();
      return status.ok() ? "{}" : absl::StrCat("{\"error\": \"", std::string(status.message()), "\"}");
    }
    if (words[0] == "attach" && words.size() == 3) {
      for (unsigned i = 0; i < names_.size(); ++i) {
        if (names_[i] != words[1]) continue;
        auto end = fakes::PacketFarEnd::Open(words[2]);
        if (!end.ok()) return absl::StrCat("{\"error\": \"", std::string(end.status().message()), "\"}");
        ends_[i] = *std::move(end);
        return "{\"attached\": true}";
      }
    }
    return absl::StrCat("{\"error\": \"not known: ", line, "\"}");
  }

  std::string TakeLine() {
    pollfd in{0, POLLIN, 0};
    char data[256];
    if (::poll(&in, 1, 0) == 1) {
      const ssize_t n = ::read(0, data, sizeof data);
      if (n <= 0) open_ = false;
      if (n > 0) typed_.append(data, static_cast<size_t>(n));
    }
    const size_t end = typed_.find('\n');
    if (end == std::string::npos) return "";
    const std::string line = typed_.substr(0, end);
    typed_.erase(0, end + 1);
    return line;
  }

  fakes::FrontEnd guest_;
  const std::array<uint8_t, 6> guest_mac_, peer_mac_;
  const std::vector<std::string> names_;
  std::vector<std::unique_ptr<fakes::FarEnd>> ends_;  // by name
  Pace out_pace_, in_pace_;
  Links links_;
  fakes::Arrivals out_, in_;
  fakes::FrameLedger others_;  // frames that somebody else sends to the guest
  uint64_t out_sent_ = 0, in_sent_ = 0, out_began_ = 0, in_began_ = 0;
  uint64_t in_settled_ = 0;  // of those sent: not under way any more, whether they came before this phase or never
  unsigned heard_ = 0;
  int64_t heard_ns_ = 0, in_sent_ns_ = 0, began_ = 0, last_round_ = 0;
  std::vector<std::string> pauses_;  // when this process was not run: [from, to]
  bool sending_ = true, open_ = true;
  std::string typed_;
};

}  // namespace
}  // namespace everport

int main(int argc, char** argv) {
  using namespace everport;
  if (argc < 6) Die("see the usage in its source");
  FlowGuest guest(argv[1], argv[2], argv[3], std::stod(argv[4]), {argv + 5, argv + argc});
  guest.Connect();
  guest.Run();
  return 0;
}
