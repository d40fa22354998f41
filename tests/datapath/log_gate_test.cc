#include "backend/datapath/log_gate.h"

#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <thread>

namespace everport {
namespace {

TEST(LogGate, LetsMarksInUntilItIsClosedAndOnceItIsOpenAgain) {
  LogGate gate;
  int marks = 0;
  const auto mark = [&] { ++marks; };
  EXPECT_FALSE(gate.Open()) << "it was open: nothing has been left out";
  gate.Pass(mark);
  EXPECT_EQ(marks, 1);
  gate.Close();
  gate.Pass(mark);
  EXPECT_EQ(marks, 1);
  EXPECT_TRUE(gate.Open());
  EXPECT_FALSE(gate.Open());
  gate.Pass(mark);
  EXPECT_EQ(marks, 2);
}

// What Close is for: the log may be unmapped once it has returned.
TEST(LogGate, ClosesOnceTheMarkUnderWayIsMade) {
  LogGate gate;
  std::atomic<bool> inside{false}, marked{false};
  std::thread poller([&] {
    gate.Pass([&] {
      inside = true;
      std::this_thread::sleep_for(std::chrono::milliseconds(50));  // for a Close that does not wait
      marked = true;
    });
  });
  while (!inside) std::this_thread::yield();
  gate.Close();
  EXPECT_TRUE(marked);
  poller.join();
  EXPECT_TRUE(gate.Open());
}

}  // namespace
}  // namespace everport
