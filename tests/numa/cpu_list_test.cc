#include "numa/cpu_list.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace everport {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

TEST(CpuList, ParsesWhatTheKernelWrites) {
  EXPECT_THAT(*ParseCpuList("0-3,8\n"), ElementsAre(0, 1, 2, 3, 8));
  EXPECT_THAT(*ParseCpuList("5"), ElementsAre(5));
  EXPECT_THAT(*ParseCpuList("\n"), IsEmpty());
  EXPECT_THAT(*ParseCpuList(""), IsEmpty());
}

TEST(CpuList, IsSortedAndDistinct) {
  EXPECT_THAT(*ParseCpuList("8,2-4,3"), ElementsAre(2, 3, 4, 8));
}

TEST(CpuList, RefusesWhatIsNoListAndNamesThePart) {
  for (const char* text : {"a", "1,,2", "3-1", "-1", "1-", "+1", "1 ,2", "8192", "0-8192", "99999999999", "1-2-3"}) {
    EXPECT_TRUE(absl::IsInvalidArgument(ParseCpuList(text).status())) << text;
  }
  EXPECT_THAT(std::string(ParseCpuList("0-3,x9").status().message()), HasSubstr("\"x9\""));
}

TEST(CpuList, RepeatedRangesStayBounded) {
  std::string text = "0-8191";
  for (int i = 0; i < 100; ++i) text += ",0-8191";
  EXPECT_EQ(ParseCpuList(text)->size(), 8192u);
}

TEST(CpuList, FormatsAsTheKernelDoes) {
  EXPECT_EQ(FormatCpuList({8, 0, 1, 2, 3}), "0-3,8");
  EXPECT_EQ(FormatCpuList({4, 4}), "4");
  EXPECT_EQ(FormatCpuList({1, 2}), "1-2");
  EXPECT_EQ(FormatCpuList({}), "");
}

}  // namespace
}  // namespace everport
