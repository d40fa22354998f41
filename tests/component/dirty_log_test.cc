// The dirty log's promise: whatever the daemon, the keeper or librte_vhost write into a guest's memory while the
// front-end logs is marked by the time the front-end has its rings back (GET_VRING_BASE). Checked against the memory
// itself, page by page: two guests on a wire, whose drivers fill their rings while nobody serves them and touch nothing
// until they have them back, so that all that changes in between is the device's doing.
//
// EVERPORT_DIRTY_FRAMES: frames over all configurations together. EVERPORT_DIRTY_SEED: of the moments; printed.
#include <gtest/gtest.h>

#include <cstdlib>
#include <cstring>
#include <random>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "tests/component/stack.h"
#include "tests/fakes/traffic.h"

namespace everport::component {
namespace {

using fakes::Flow;
using fakes::FlowOptions;
using fakes::FrontEnd;
using fakes::FrontEndOptions;
using fakes::GuestMemory;

constexpr size_t kPage = 4096;

enum class Fault { kNone, kKilled, kReplayed, kNoKeeper, kSwitched };
struct Case {
  const char* name;
  bool packed, in_order, event_idx, mergeable, indirect;
  unsigned queue_pairs;
  Fault fault;
};
void PrintTo(const Case& c, std::ostream* out) {
  *out << c.name;
}
constexpr Case kCases[] = {
    {"split", false, false, false, true, false, 1, Fault::kNone},
    {"split_inorder_eventidx_4q", false, true, true, true, false, 4, Fault::kNone},
    {"split_indirect_unmergeable", false, false, true, false, true, 1, Fault::kNone},
    {"packed", true, false, false, true, false, 1, Fault::kNone},
    {"packed_inorder_4q", true, true, false, true, false, 4, Fault::kNone},
    {"packed_eventidx_indirect_unmergeable", true, false, true, false, true, 1, Fault::kNone},
    {"split_straight_eventidx", false, false, true, true, false, 1, Fault::kNoKeeper},
    {"packed_straight", true, false, false, true, false, 1, Fault::kNoKeeper},
    {"split_killed", false, false, false, true, false, 1, Fault::kKilled},
    {"split_indirect_unmergeable_killed", false, false, true, false, true, 1, Fault::kKilled},
    {"packed_killed", true, false, false, true, false, 1, Fault::kKilled},
    {"packed_inorder_4q_killed", true, true, false, true, false, 4, Fault::kKilled},
    {"packed_indirect_unmergeable_killed", true, false, false, false, true, 1, Fault::kKilled},
    {"split_replayed", false, false, true, true, false, 1, Fault::kReplayed},
    {"packed_replayed", true, false, true, true, false, 1, Fault::kReplayed},
    {"split_switched", false, false, true, true, false, 1, Fault::kSwitched},
    {"split_indirect_unmergeable_switched", false, false, false, false, true, 1, Fault::kSwitched},
    {"packed_switched", true, false, false, true, false, 1, Fault::kSwitched},
};

unsigned FromEnvironment(const char* name, unsigned otherwise) {
  const char* text = std::getenv(name);
  return text == nullptr ? otherwise : static_cast<unsigned>(std::strtoul(text, nullptr, 10));
}

// A guest's memory as it was, and its log taken anew: what a migration's source has sent so far.
class Snapshot {
 public:
  explicit Snapshot(FrontEnd& end) : end_(end) {
    for (const GuestMemory::Block& region : end.memory().Regions())
      copies_.emplace_back(region.host, region.host + region.size);
    end.ClearLog();
  }
  // Whether the device has used anything of any ring since.
  bool Moved() const {
    for (unsigned ring = 0; ring < 2 * end_.options().queue_pairs; ++ring) {
      fakes::DriverRing& of = end_.ring(ring);
      const bool packed = of.packed();
      if (Differs(packed ? of.desc_gpa() : of.device_gpa() + 2, packed ? size_t{16} * of.size() : 2)) return true;
    }
    return false;
  }
  struct Result {
    uint64_t changed = 0, marked = 0;  // pages
    std::string missed;                // the first page that changed and is not marked
  };
  Result Compare() const {
    Result result;
    const std::vector<GuestMemory::Block> regions = end_.memory().Regions();
    for (size_t i = 0; i < regions.size(); ++i) {
      for (size_t at = 0; at < regions[i].size; at += kPage) {
        const uint64_t page = (regions[i].gpa + at) / kPage;
        const bool changed = std::memcmp(regions[i].host + at, &copies_[i][at], kPage) != 0;
        const bool marked = end_.log()[page / 8] >> page % 8 & 1;
        result.changed += changed;
        result.marked += marked;
        if (!changed || marked || !result.missed.empty()) continue;
        const uint8_t* now = regions[i].host + at;
        const auto first = std::mismatch(now, now + kPage, &copies_[i][at]).first - now;
        result.missed = Describe(page * kPage + static_cast<uint64_t>(first));
      }
    }
    return result;
  }

 private:
  bool Differs(uint64_t gpa, size_t bytes) const {
    const std::vector<GuestMemory::Block> regions = end_.memory().Regions();
    for (size_t i = 0; i < regions.size(); ++i) {
      if (gpa < regions[i].gpa || gpa - regions[i].gpa >= regions[i].size) continue;
      return std::memcmp(regions[i].host + (gpa - regions[i].gpa), &copies_[i][gpa - regions[i].gpa], bytes) != 0;
    }
    return false;
  }
  std::string Describe(uint64_t gpa) const {
    std::string text = absl::StrCat("byte 0x", absl::Hex(gpa), " changed and its page is not marked");
    for (unsigned ring = 0; ring < 2 * end_.options().queue_pairs; ++ring) {
      fakes::DriverRing& of = end_.ring(ring);
      absl::StrAppend(&text, "; ring ", ring, ": desc 0x", absl::Hex(of.desc_gpa()), " device 0x",
                      absl::Hex(of.device_gpa()));
    }
    return text;
  }
  FrontEnd& end_;
  std::vector<std::vector<uint8_t>> copies_;  // by region
};

class DirtyLogTest : public testing::TestWithParam<Case> {
 protected:
  void SetUp() override {
    const unsigned seed = FromEnvironment("EVERPORT_DIRTY_SEED", std::random_device()());
    RecordProperty("seed", std::to_string(seed));
    std::printf("seed %u\n", seed);
    random_.seed(seed);
    const Case& c = GetParam();
    stack_.options().keeper = c.fault != Fault::kNoKeeper;
    AddPorts();
    for (const char* name : {"a", "b"}) {
      ends_.push_back(std::make_unique<FrontEnd>(FrontEndOptions{.socket = stack_.Socket(name),
                                                                 .queue_pairs = c.queue_pairs,
                                                                 .ring_size = RingSize(),
                                                                 .packed = c.packed,
                                                                 .mergeable = c.mergeable,
                                                                 .indirect = c.indirect,
                                                                 .in_order = c.in_order,
                                                                 .event_idx = c.event_idx,
                                                                 .rx_buffer = 1024,  // some frames take two
                                                                 .regions = 2}));
      ends_.back()->Listen();
    }
    ASSERT_OK(stack_.Start());
    for (auto& end : ends_) ASSERT_OK(end->Connect(absl::Seconds(5)));
    const FlowOptions frames{
        .sizes = {60, 127, 594, 1514, 64},
        .shapes = {{}, {.cuts = {12}}, {.cuts = {12, 14, 46}}, {.cuts = {12, 20}, .indirect = true}}};
    flows_.push_back(std::make_unique<Flow>(*ends_[0], *ends_[1], 1000, frames));
    flows_.push_back(std::make_unique<Flow>(*ends_[1], *ends_[0], 5000, frames));
  }
  // A wire; where paths are switched two memifs, which do not mind that the other guest's rings are not served.
  void AddPorts() {
    const Case& c = GetParam();
    if (c.fault != Fault::kSwitched) return stack_.AddWire("a", "b", c.queue_pairs);
    const auto memif = [&](unsigned pair, const char* role) {
      return absl::StrCat("net_memif", 2 * pair + (*role == 's'), ",socket=", (stack_.dir() / "memif").c_str(), pair,
                          ",socket-abstract=no,role=", role);
    };
    const auto port = [&](const char* name, const char* mac, const char* role) {
      stack_.AddPort({.name = name,
                      .uplink_kind = "vdev",
                      .uplink_device = memif(0, role),
                      .mac = mac,
                      .more_uplinks = {{"vdev", memif(1, role)}}});
    };
    port("a", "52:54:00:00:ee:02", "server");
    port("b", "52:54:00:00:ee:03", "client");
  }
  // Of several pages. Where paths are switched the device is to be busy until after that, a few milliseconds.
  uint16_t RingSize() const { return GetParam().fault == Fault::kSwitched ? 16384 : 1024; }
  // Both ports to their other uplink; false: not yet, memif connects by itself.
  bool SwitchPaths() {
    const std::string body = absl::StrCat("{\"index\": ", 1 - path_, "}");
    const bool switched = stack_.Post("/v1/ports/a/path", body).ok() && stack_.Post("/v1/ports/b/path", body).ok();
    if (switched) path_ = 1 - path_;
    switches_ += switched;
    return switched;
  }
  // The drivers' work: everything that the rings have room for.
  void Fill() {
    while (flows_[0]->Round() + flows_[1]->Round() > 0) {
    }
  }
  uint64_t Received() const { return flows_[0]->ledger().received + flows_[1]->ledger().received; }
  // Until the device has begun on both guests' rings, and a moment that differs each time.
  void LetWork(const std::vector<Snapshot>& before, int most_us) {
    const absl::Time give_up = absl::Now() + absl::Seconds(5);
    while (!(before[0].Moved() && before[1].Moved()) && absl::Now() < give_up) std::this_thread::yield();
    ASSERT_LT(absl::Now(), give_up) << "nothing moves\n" << stack_.Logs();
    const absl::Time end = absl::Now() + absl::Microseconds(std::uniform_int_distribution<>(0, most_us)(random_));
    while (absl::Now() < end) {
    }
  }
  // As QEMU does when guest memory grows. Straight to librte_vhost, which unmaps the log before.
  void RenewLogs() {
    for (auto& end : ends_) ASSERT_OK(end->RenewLog());
  }
  // The device has the rings, from the drivers and back to them. Everything that has changed must be marked.
  void Round() {
    Fill();
    std::vector<Snapshot> before;
    for (auto& end : ends_) before.emplace_back(*end);
    const Fault fault = GetParam().fault;
    for (auto& end : ends_) ASSERT_OK(end->Resume());
    if (fault == Fault::kSwitched) SwitchPaths();
    const bool kill = fault == Fault::kKilled || fault == Fault::kReplayed;
    LetWork(before, kill ? 200 : 3000);
    if (fault == Fault::kNoKeeper) RenewLogs();
    if (kill) stack_.KillDaemon();
    if (fault == Fault::kReplayed) ASSERT_OK(stack_.StartDaemon());
    for (auto& end : ends_) ASSERT_OK(end->Stop());  // with the daemon dead the keeper answers
    for (const Snapshot& snapshot : before) {
      const Snapshot::Result result = snapshot.Compare();
      ASSERT_EQ(result.missed, "") << stack_.Logs();
      changed_ += result.changed;
      marked_ += result.marked;
    }
    if (fault == Fault::kKilled) ASSERT_OK(stack_.StartDaemon());
  }
  std::mt19937 random_;
  Stack stack_;
  std::vector<std::unique_ptr<FrontEnd>> ends_;
  std::vector<std::unique_ptr<Flow>> flows_;
  uint64_t changed_ = 0, marked_ = 0;
  unsigned path_ = 0, switches_ = 0;
};

TEST_P(DirtyLogTest, EveryPageThatChangesIsMarked) {
  const unsigned frames = FromEnvironment("EVERPORT_DIRTY_FRAMES", 1'000'000);
  constexpr unsigned kFaults = 20;
  // Logging begins while traffic flows, as a migration does.
  ASSERT_TRUE(RunUntil(
      std::vector<Flow*>{flows_[0].get(), flows_[1].get()}, [&] { return Received() > 2000; }, absl::Seconds(20)))
      << stack_.Logs();
  for (auto& end : ends_) ASSERT_OK(end->StartLog());
  for (auto& end : ends_) ASSERT_OK(end->Stop());
  unsigned rounds = 0;
  const auto enough = [&] { return GetParam().fault == Fault::kNone ? Received() >= frames / 6 : rounds >= kFaults; };
  for (; !enough() && !HasFatalFailure(); ++rounds) Round();
  for (auto& flow : flows_) {
    // One memif may overtake the other.
    if (GetParam().fault != Fault::kSwitched) {
      ASSERT_EQ(flow->Fault(), "") << stack_.Logs();
    }
    ASSERT_EQ(flow->ledger().corrupted, 0u) << flow->Fault() << stack_.Logs();
  }
  if (GetParam().fault == Fault::kSwitched) {
    ASSERT_GE(switches_, kFaults / 2) << "of two paths each\n" << stack_.Logs();
  }
  std::printf("%s: %u rounds, %lu frames, %lu pages changed, none unmarked; %lu marked without need (%.1f %%)\n",
              GetParam().name, rounds, Received(), changed_, marked_ - changed_,
              100.0 * static_cast<double>(marked_ - changed_) / static_cast<double>(changed_));
}

INSTANTIATE_TEST_SUITE_P(Cases, DirtyLogTest, testing::ValuesIn(kCases),
                         [](const auto& test) { return std::string(test.param.name); });

}  // namespace
}  // namespace everport::component
