#pragma once

#include <deque>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "backend/api/service_api.h"

namespace everport {

// The last events, and those who listen to new ones. Each is also one log line. Control thread.
class EventLog {
 public:
  // port: empty for the daemon itself. warning: the operator has something to do.
  void Add(const std::string& port, const std::string& type, const std::string& message, bool warning = false);

  // The same, of a path that is another now.
  void AddPath(const std::string& port, const EventView::PathChange& change, const std::string& message, bool warning);

  std::vector<EventView> Recent() const { return {events_.begin(), events_.end()}; }
  int Subscribe(std::function<void(const EventView&)> listener);
  void Unsubscribe(int id) { listeners_.erase(id); }

 private:
  void Publish(EventView event, bool warning);

  static constexpr size_t kKept = 1024;
  std::deque<EventView> events_;
  std::map<int, std::function<void(const EventView&)>> listeners_;
  uint64_t next_event_ = 1;
  int next_listener_ = 1;
};

}  // namespace everport
