// SIGKILL of the daemon at random moments under full load. The rings' account must come out exactly: no chain lost,
// none used twice, none that the guest has been given back handed over again; and no frame corrupted or delivered
// twice.
//
// EVERPORT_KILL_POINTS: kill points over all configurations together, 1000 by default. A kill of the daemon counts once
// for every port that it serves, since each port's rings stand somewhere of their own at that moment.
// EVERPORT_KILL_SEED: of the moments; printed.
//
// A front-end of one thread cannot keep the daemon busy all the time, so each shot has its run-up: the daemon is
// stopped (SIGSTOP), every ring is filled to the brim, the daemon goes on and dies while it works that off.
#include <gtest/gtest.h>
#include <sched.h>
#include <signal.h>
#include <sys/mman.h>

#include <algorithm>
#include <cstdlib>
#include <deque>
#include <random>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "backend/keeper/index_page.h"
#include "tests/component/stack.h"
#include "tests/fakes/traffic.h"

namespace everport::component {
namespace {

using fakes::Flow;
using fakes::FlowOptions;
using fakes::FrontEnd;
using fakes::FrontEndOptions;

struct Rings {
  const char* name;
  bool packed, in_order, event_idx, mergeable, indirect;
  unsigned queue_pairs;
};
void PrintTo(const Rings& rings, std::ostream* out) {
  *out << rings.name;
}
constexpr Rings kRings[] = {
    {"split_1q", false, false, false, true, false, 1},
    {"split_inorder_eventidx_4q", false, true, true, true, false, 4},
    {"split_indirect_unmergeable_1q", false, false, true, false, true, 1},
    {"packed_1q", true, false, false, true, false, 1},
    {"packed_inorder_4q", true, true, false, true, false, 4},
    {"packed_eventidx_4q", true, false, true, true, false, 4},
    {"packed_indirect_unmergeable_1q", true, false, false, false, true, 1},
    {"packed_inorder_indirect_1q", true, true, true, true, true, 1},
};
constexpr unsigned kWires = 4;

unsigned FromEnvironment(const char* name, unsigned otherwise) {
  const char* text = std::getenv(name);
  return text == nullptr ? otherwise : static_cast<unsigned>(std::strtoul(text, nullptr, 10));
}

// The keeper's index pages, mapped for reading.
class IndexPages {
 public:
  explicit IndexPages(const fakes::Process& keeper) {
    for (const UniqueFd& fd : keeper.OpenFiles("everport-index-page")) {
      void* page = ::mmap(nullptr, sizeof(IndexPage), PROT_READ, MAP_SHARED, fd.get(), 0);
      if (page != MAP_FAILED) pages_.push_back(static_cast<const IndexPage*>(page));
    }
  }
  ~IndexPages() {
    for (const IndexPage* page : pages_) ::munmap(const_cast<IndexPage*>(page), sizeof(IndexPage));
  }
  IndexPages(const IndexPages&) = delete;
  IndexPages& operator=(const IndexPages&) = delete;

  size_t size() const { return pages_.size(); }
  // Rings with a burst under way, or that was when the daemon died.
  unsigned Bursts() const {
    unsigned count = 0;
    for (const IndexPage* page : pages_) {
      for (const IndexPageVring& vring : page->vrings) {
        count += IndexPageHeadChains(vring.head.load(std::memory_order_acquire)) > 0;
      }
    }
    return count;
  }

 private:
  std::vector<const IndexPage*> pages_;
};

class KillTest : public testing::TestWithParam<Rings> {};

// The poller gets the last CPU for itself, or it would not run while we wait to shoot. Gives that CPU, -1 if there is
// but one.
int KeepOffTheLastCpu() {
  static const int cpu = [] {
    cpu_set_t cpus;
    if (::sched_getaffinity(0, sizeof cpus, &cpus) != 0 || CPU_COUNT(&cpus) < 2) return -1;
    int last = CPU_SETSIZE - 1;
    while (!CPU_ISSET(last, &cpus)) --last;
    CPU_CLR(last, &cpus);
    return ::sched_setaffinity(0, sizeof cpus, &cpus) == 0 ? last : -1;
  }();
  return cpu;
}

unsigned RoundOfAll(const std::vector<Flow*>& flows) {
  unsigned moved = 0;
  for (Flow* flow : flows) moved += flow->Round();
  return moved;
}

void StopAndFill(Stack& stack, const std::vector<Flow*>& flows) {
  stack.daemon().Signal(SIGSTOP);
  while (RoundOfAll(flows) > 0) {
  }
}

// The shot falls within the time that the daemon needs for full rings, about; counted from when it is seen to work
// again, for a busy machine may leave it waiting.
void GoOnAndDie(Stack& stack, const std::vector<Flow*>& flows, unsigned queue_pairs, std::mt19937& random) {
  const int most = 200'000 * static_cast<int>(queue_pairs);
  const auto run = absl::Nanoseconds(std::uniform_int_distribution<>(0, most)(random));
  stack.daemon().Signal(SIGCONT);
  const absl::Time give_up = absl::Now() + absl::Milliseconds(200);
  while (RoundOfAll(flows) == 0 && absl::Now() < give_up) {
  }
  const absl::Time shot = absl::Now() + run;
  while (absl::Now() < shot) {
  }
  stack.KillDaemon();
}

TEST_P(KillTest, EveryDescriptorIsAccountedFor) {
  const Rings& rings = GetParam();
  const unsigned points = FromEnvironment("EVERPORT_KILL_POINTS", 1000);
  const unsigned per_kill = 2 * kWires;
  const unsigned kills =
      std::max<unsigned>(1, (points + std::size(kRings) * per_kill - 1) / (std::size(kRings) * per_kill));
  const unsigned seed = FromEnvironment("EVERPORT_KILL_SEED", std::random_device()());
  RecordProperty("seed", std::to_string(seed));
  std::mt19937 random(seed);

  Stack stack({.poller_cpu = KeepOffTheLastCpu()});
  std::deque<FrontEnd> ends;
  for (unsigned wire = 0; wire < kWires; ++wire) {
    const std::string a = absl::StrCat("a", wire), b = absl::StrCat("b", wire);
    stack.AddWire(a, b, rings.queue_pairs);
    for (const std::string& name : {a, b}) {
      ends.emplace_back(FrontEndOptions{.socket = stack.Socket(name),
                                        .queue_pairs = rings.queue_pairs,
                                        .packed = rings.packed,
                                        .mergeable = rings.mergeable,
                                        .indirect = rings.indirect,
                                        .in_order = rings.in_order,
                                        .event_idx = rings.event_idx,
                                        .rx_buffer = 1024});  // some frames take two buffers
      ends.back().Listen();
    }
  }
  const absl::Status started = stack.Start();
  ASSERT_TRUE(started.ok()) << started;
  std::deque<Flow> flows_storage;
  std::vector<Flow*> flows;
  const FlowOptions frames{
      .sizes = {60, 127, 594, 1514, 64},
      .shapes = {{}, {.cuts = {12}}, {.cuts = {12, 14, 46}}, {.cuts = {12, 20}, .indirect = true}}};
  for (FrontEnd& end : ends) {
    const absl::Status connected = end.Connect(absl::Seconds(5));
    ASSERT_TRUE(connected.ok()) << connected << "\n" << stack.Logs();
  }
  for (unsigned wire = 0; wire < kWires; ++wire) {
    FrontEnd &a = ends[2 * wire], &b = ends[2 * wire + 1];
    flows_storage.emplace_back(a, b, 1000 + 100 * wire, frames);
    flows_storage.emplace_back(b, a, 5000 + 100 * wire, frames);
  }
  for (Flow& flow : flows_storage) flows.push_back(&flow);

  std::vector<uint64_t> before(flows.size());
  auto note = [&] {
    for (size_t i = 0; i < flows.size(); ++i) before[i] = flows[i]->ledger().received;
  };
  auto all_move = [&](uint64_t frames_each) {
    for (size_t i = 0; i < flows.size(); ++i) {
      if (flows[i]->ledger().received < before[i] + frames_each) return false;
    }
    return true;
  };
  note();
  ASSERT_TRUE(RunUntil(
      flows, [&] { return all_move(500); }, absl::Seconds(20)))
      << stack.Logs();

  const IndexPages pages(stack.keeper());
  ASSERT_EQ(pages.size(), 2 * kWires);
  unsigned mid_burst = 0;
  std::vector<double> gaps_ms;
  for (unsigned kill = 0; kill < kills; ++kill) {
    SCOPED_TRACE(absl::StrCat("kill ", kill + 1, " of ", kills, ", seed ", seed));
    StopAndFill(stack, flows);
    GoOnAndDie(stack, flows, rings.queue_pairs, random);
    mid_burst += pages.Bursts() > 0;
    const absl::Time killed = absl::Now();
    ASSERT_TRUE(stack.StartDaemon(/*wait=*/false).ok());
    note();
    // What was on its way to the guest when the daemon died still counts as received, hence more than a ring of it.
    ASSERT_TRUE(RunUntil(
        flows, [&] { return all_move(600); }, absl::Seconds(10)))
        << "traffic did not come back\n"
        << stack.Logs();
    gaps_ms.push_back(absl::ToDoubleMilliseconds(absl::Now() - killed));
    ASSERT_EQ(DrainAll(flows, absl::Seconds(5)), "") << stack.Logs();
    // librte_vhost mends a split ring's base that does not agree with used->idx, and says so: ours must agree.
    ASSERT_EQ(stack.daemon().log().find("mismatches"), std::string::npos) << stack.Logs();
    for (Flow* flow : flows) {
      ASSERT_EQ(flow->Fault(), "") << stack.Logs();
      flow->sending = true;
    }
  }
  std::sort(gaps_ms.begin(), gaps_ms.end());
  uint64_t received = 0, missing = 0;
  for (const Flow* flow : flows) {
    received += flow->ledger().received;
    missing += flow->ledger().missing;
  }
  std::printf(
      "%s: %u kills (%u in the middle of a packed burst), %u kill points; %lu frames arrived, %lu lost; back at load "
      "after %.0f ms (median), %.0f ms "
      "(worst); seed %u\n",
      rings.name, kills, mid_burst, kills * per_kill, received, missing, gaps_ms[gaps_ms.size() / 2], gaps_ms.back(),
      seed);
}

INSTANTIATE_TEST_SUITE_P(Rings, KillTest, testing::ValuesIn(kRings),
                         [](const auto& test) { return std::string(test.param.name); });

}  // namespace
}  // namespace everport::component
