// 64 ports in one daemon: how long until all are connected, what they cost, what an idle daemon takes.
#include <gtest/gtest.h>

#include <cstdlib>
#include <deque>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "tests/component/stack.h"
#include "tests/fakes/sanitizer.h"
#include "tests/fakes/traffic.h"

namespace everport::component {
namespace {

using fakes::FrontEnd;

constexpr unsigned kPorts = 64;

unsigned PortsInState(const Stack& stack, const std::string& state) {
  auto ports = stack.Get("/v1/ports");
  if (!ports.ok() || !ports->is_array()) return 0;
  unsigned count = 0;
  for (const boost::json::value& port : ports->as_array()) {
    const boost::json::value* is = port.as_object().if_contains("state");
    if (is != nullptr && is->is_string() && is->as_string() == state) ++count;
  }
  return count;
}

// `ports` guests that have started and have nothing to do.
struct Guests {
  explicit Guests(unsigned ports) {
    for (unsigned i = 0; i < ports; i += 2) stack.AddWire(absl::StrCat("p", i), absl::StrCat("p", i + 1));
    for (unsigned i = 0; i < ports; ++i)
      ends.emplace_back(fakes::FrontEndOptions{.socket = stack.Socket(absl::StrCat("p", i))});
  }
  absl::Status Connect() {
    for (FrontEnd& end : ends) end.Listen();
    for (FrontEnd& end : ends) {
      if (auto s = end.Connect(absl::Seconds(10)); !s.ok()) return s;
      end.rx(0).AddBuffers();
      end.FlushRx(0);
    }
    return absl::OkStatus();
  }
  bool WaitRunning(absl::Duration timeout) {
    const absl::Time deadline = absl::Now() + timeout;
    while (PortsInState(stack, "running") < ends.size()) {
      if (absl::Now() > deadline) return false;
    }
    return true;
  }
  Stack stack;
  std::deque<FrontEnd> ends;
};

TEST(Scale, StartToAllConnected) {
  Guests guests(kPorts);
  guests.stack.WriteConfig();
  ASSERT_TRUE(guests.stack.StartKeeper().ok()) << guests.stack.Logs();
  const absl::Status connected = guests.Connect();
  ASSERT_TRUE(connected.ok()) << connected << "\n" << guests.stack.Logs();
  const absl::Time start = absl::Now();
  ASSERT_TRUE(guests.stack.StartDaemon(/*wait=*/false).ok());
  ASSERT_TRUE(guests.WaitRunning(absl::Seconds(20))) << PortsInState(guests.stack, "running") << " are running\n"
                                                     << guests.stack.Logs();
  const absl::Duration cold = absl::Now() - start;
  const double keeper_mib = static_cast<double>(guests.stack.keeper().rss_bytes()) / (1 << 20);
  // And again after a SIGKILL.
  guests.stack.KillDaemon();
  const absl::Time again = absl::Now();
  ASSERT_TRUE(guests.stack.StartDaemon(/*wait=*/false).ok());
  ASSERT_TRUE(guests.WaitRunning(absl::Seconds(20))) << guests.stack.Logs();
  const absl::Duration after_kill = absl::Now() - again;
  std::printf("%u ports: daemon start to all running %.0f ms, after SIGKILL %.0f ms; keeper %.1f MiB resident\n",
              kPorts, absl::ToDoubleMilliseconds(cold), absl::ToDoubleMilliseconds(after_kill), keeper_mib);
  if (!fakes::kSanitized) {
    EXPECT_LT(cold, absl::Seconds(3));
    EXPECT_LT(keeper_mib, 16);
  }
  // Traffic on the first and the last pair.
  for (size_t first : {size_t{0}, guests.ends.size() - 2}) {
    fakes::Flow there(guests.ends[first], guests.ends[first + 1], 1);
    fakes::Flow* const flows[] = {&there};
    EXPECT_TRUE(RunUntil(
        flows, [&] { return there.ledger().received > 1000; }, absl::Seconds(5)));
    EXPECT_EQ(there.Fault(), "");
  }
}

TEST(Scale, MemoryPerFurtherIdlePort) {
  auto resident = [](unsigned ports) -> double {
    Guests guests(ports);
    EXPECT_TRUE(guests.stack.Start().ok()) << guests.stack.Logs();
    EXPECT_TRUE(guests.Connect().ok()) << guests.stack.Logs();
    EXPECT_TRUE(guests.WaitRunning(absl::Seconds(20))) << guests.stack.Logs();
    return static_cast<double>(guests.stack.daemon().rss_bytes()) / (1 << 20);
  };
  const double few = resident(2), many = resident(kPorts);
  const double each = (many - few) / (kPorts - 2);
  std::printf("daemon: %.1f MiB resident with 2 ports, %.1f with %u: %.2f MiB per further idle port\n", few, many,
              kPorts, each);
  if (!fakes::kSanitized) {
    EXPECT_LT(each, 4);
  }
}

// A figure of time: judged only on a machine that has nothing else to do, that is with EVERPORT_TIMED_TESTS=1
// (the bench run sets it); otherwise printed.
TEST(Scale, IdleCpu) {
  Guests guests(kPorts);
  ASSERT_TRUE(guests.stack.Start().ok()) << guests.stack.Logs();
  ASSERT_TRUE(guests.Connect().ok()) << guests.stack.Logs();
  ASSERT_TRUE(guests.WaitRunning(absl::Seconds(20))) << guests.stack.Logs();
  const double cpu = guests.stack.daemon().cpu_seconds(), keeper = guests.stack.keeper().cpu_seconds();
  const absl::Time start = absl::Now();
  // Five seconds in which nothing happens are the matter under test.
  EXPECT_FALSE(guests.stack.daemon().WaitLog("(an event)", absl::Seconds(5)));
  const double seconds = absl::ToDoubleSeconds(absl::Now() - start);
  const double share = (guests.stack.daemon().cpu_seconds() - cpu) / seconds;
  std::printf("idle with %u ports: daemon %.1f %% of a core, keeper %.1f %%\n", kPorts, 100 * share,
              100 * (guests.stack.keeper().cpu_seconds() - keeper) / seconds);
  if (std::getenv("EVERPORT_TIMED_TESTS") != nullptr) {
    EXPECT_LT(share, 0.05);
  }
}

}  // namespace
}  // namespace everport::component
