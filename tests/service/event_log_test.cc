#include "backend/service/event_log.h"

#include <gtest/gtest.h>

namespace everport {
namespace {

TEST(EventLog, KeepsTheLastThousandOrSoInOrder) {
  EventLog log;
  for (int i = 0; i < 1100; ++i) log.Add("p", "state", std::to_string(i));
  const auto events = log.Recent();
  ASSERT_EQ(events.size(), 1024u);
  EXPECT_EQ(events.front().message, "76");
  EXPECT_EQ(events.back().message, "1099");
  EXPECT_EQ(events.back().id, events.front().id + 1023);
}

TEST(EventLog, ListenersHearUntilTheyUnsubscribe) {
  EventLog log;
  std::vector<std::string> heard;
  const int id = log.Subscribe([&](const EventView& event) { heard.push_back(event.message); });
  log.Add("", "config", "one");
  log.Unsubscribe(id);
  log.Add("", "config", "two");
  EXPECT_EQ(heard, std::vector<std::string>{"one"});
}

TEST(EventLog, AListenerMayUnsubscribeItselfAndOthersWhileItHears) {
  EventLog log;
  int second_heard = 0;
  int first = 0, second = 0;
  first = log.Subscribe([&](const EventView&) {
    log.Unsubscribe(first);
    log.Unsubscribe(second);
  });
  second = log.Subscribe([&](const EventView&) { ++second_heard; });
  log.Add("", "config", "one");
  EXPECT_EQ(second_heard, 0);
}

}  // namespace
}  // namespace everport
