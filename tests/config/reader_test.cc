#include "backend/config/reader.h"

#include <gtest/gtest.h>

namespace everport::config {
namespace {

TEST(Nearest, FindsSlipsOfThePenAlone) {
  const std::vector<absl::string_view> known = {"name", "socket", "mac", "mtu", "queue_pairs"};
  EXPECT_EQ(Nearest("sockett", known), "socket");
  EXPECT_EQ(Nearest("nmae", known), "name");
  EXPECT_EQ(Nearest("MTU", known), "mtu");
  EXPECT_EQ(Nearest("queuepair", known), "queue_pairs");
  EXPECT_EQ(Nearest("colour", known), "");
  EXPECT_EQ(Nearest("x", known), "");
  EXPECT_EQ(Nearest("", known), "");
  EXPECT_EQ(Nearest(std::string(100000, 'n'), known), "");
}

TEST(Source, LineIsThatOfTheNearestTable) {
  Source source("f");
  source.SetLine("port[0]", 3);
  source.SetLine("port[0].uplink[1]", 9);
  EXPECT_EQ(source.LineOf("port[0].uplink[1].device"), 9u);
  EXPECT_EQ(source.LineOf("port[0].uplink[0].device"), 3u);
  EXPECT_EQ(source.LineOf("daemon.name"), 0u);
}

TEST(Source, KeepsTheFirstFault) {
  Source source("f");
  source.Fail("a", "one; mend");
  source.Fail("b", "two; mend");
  EXPECT_EQ(std::string(source.status().message()), "f: a: one; mend");
}

TEST(Quote, EscapesAndCuts) {
  EXPECT_EQ(Quote("a\"\n\x7f"), "\"a\\\"\\n\\x7f\"");
  EXPECT_LT(Quote(std::string(100000, 'x')).size(), 200u);
}

}  // namespace
}  // namespace everport::config
