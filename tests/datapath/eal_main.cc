// main for tests that need EAL, instead of gtest_main's.
#include <gtest/gtest.h>

#include "tests/datapath/eal_start.h"

int main(int argc, char** argv) {
  testing::InitGoogleTest(&argc, argv);
  everport::StartEalForTest();
  return RUN_ALL_TESTS();
}
