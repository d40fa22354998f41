#include "backend/config/reader.h"

#include <gtest/gtest.h>

#include <algorithm>

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

TEST(Source, KeepsOneFaultAKeyInTheOrderOfLines) {
  Source source("f");
  source.SetLine("a", 7);
  source.SetLine("b", 3);
  source.Fail("a", "one; mend");
  source.Fail("b", "two; mend");
  source.Fail("a", "three; mend");
  EXPECT_EQ(std::string(source.status().message()), "f:7: a: one; mend");
  EXPECT_EQ(std::string(source.all().message()), "f:3: b: two; mend\nf:7: a: one; mend");
}

TEST(Source, AFaultExcusesTheTablesAroundItAlone) {
  Source source("f");
  source.Fail("port[1].uplink[0].kind", "one; mend");
  EXPECT_TRUE(source.Failed("port[1].uplink[0].kind"));
  EXPECT_TRUE(source.Failed("port[1].uplink"));
  EXPECT_TRUE(source.Failed("port[1]"));
  EXPECT_FALSE(source.Failed("port[1].uplink[0].kin"));
  EXPECT_FALSE(source.Failed("port[1].up"));
  EXPECT_FALSE(source.Failed("port[11]"));
  EXPECT_FALSE(source.Failed("port[0]"));
}

TEST(Source, ManyFaultsAreCounted) {
  Source source("f");
  for (int i = 0; i < 60; ++i) source.Fail(Join("key", i), "wrong; mend");
  const std::string text(source.all().message());
  EXPECT_EQ(std::count(text.begin(), text.end(), '\n'), 50);
  EXPECT_EQ(text.substr(text.rfind('\n') + 1), "f: 10 more; mend these first");
}

TEST(Quote, EscapesAndCuts) {
  EXPECT_EQ(Quote("a\"\n\x7f"), "\"a\\\"\\n\\x7f\"");
  EXPECT_LT(Quote(std::string(100000, 'x')).size(), 200u);
}

}  // namespace
}  // namespace everport::config
