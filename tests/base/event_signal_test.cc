#include "backend/base/event_signal.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <array>
#include <cstdint>

namespace everport {
namespace {

constexpr uint64_t kFull = ~uint64_t{1};  // the most that write(2) makes of a counter

UniqueFd MakeEventFd(uint64_t count = 0) {
  UniqueFd fd(::eventfd(0, EFD_CLOEXEC));  // one that waits
  EXPECT_TRUE(count == 0 || ::write(fd.get(), &count, sizeof count) == sizeof count);
  return fd;
}

uint64_t Drain(const UniqueFd& fd) {
  uint64_t count = 0;
  EXPECT_EQ(::read(fd.get(), &count, sizeof count), ssize_t{sizeof count});
  return count;
}

class EventSignalTest : public testing::TestWithParam<EventSignal::Means> {
 protected:
  EventSignal signal{GetParam()};
};

TEST_P(EventSignalTest, AddsOneEachTime) {
  ASSERT_EQ(signal.means(), GetParam()) << "fs.aio-max-nr";
  const UniqueFd fd = MakeEventFd();
  signal.Signal(fd.get());
  EXPECT_EQ(Drain(fd), 1u);
  for (int i = 0; i < 1000; ++i) signal.Signal(fd.get());
  EXPECT_EQ(Drain(fd), 1000u);
}

TEST_P(EventSignalTest, AFullCounterThatWaitsIsLeftAndKeepsItsMode) {
  const UniqueFd full = MakeEventFd(kFull);
  const int mode = ::fcntl(full.get(), F_GETFL);
  signal.Signal(full.get());
  signal.Signal(full.get());
  EXPECT_EQ(::fcntl(full.get(), F_GETFL), mode);
  EXPECT_GE(Drain(full), kFull);
  const UniqueFd other = MakeEventFd();
  signal.Signal(other.get());
  EXPECT_EQ(Drain(other), 1u);
}

INSTANTIATE_TEST_SUITE_P(Means, EventSignalTest,
                         testing::Values(EventSignal::Means::kCompletion, EventSignal::Means::kWrite),
                         [](const auto& i) { return i.param == EventSignal::Means::kWrite ? "Write" : "Completion"; });

// There is no moment at which a front-end could fill the counter and have us wait: it takes what no write(2) adds.
TEST(EventSignal, CompletionIsNoWrite) {
  EventSignal signal;
  const UniqueFd full = MakeEventFd(kFull);
  signal.Signal(full.get());
  EXPECT_EQ(Drain(full), kFull + 1);
}

TEST(EventSignal, WritesNothingIntoWhatIsNoEventfd) {
  EventSignal signal;
  std::array<int, 2> ends{};
  ASSERT_EQ(::pipe2(ends.data(), O_NONBLOCK | O_CLOEXEC), 0);
  const UniqueFd out(ends[0]), in(ends[1]);
  signal.Signal(in.get());
  signal.Signal(-1);
  char byte = 0;
  EXPECT_EQ(::read(out.get(), &byte, 1), -1);
}

}  // namespace
}  // namespace everport
