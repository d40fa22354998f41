#include "backend/service/event_log.h"

#include <chrono>

#include "backend/base/log.h"

namespace everport {

void EventLog::Add(const std::string& port, const std::string& type, const std::string& message, bool warning) {
  EventView event;
  event.port = port;
  event.type = type;
  event.message = message;
  Publish(std::move(event), warning);
}

void EventLog::AddPath(const std::string& port, const EventView::PathChange& change, const std::string& message,
                       bool warning) {
  EventView event;
  event.port = port;
  event.type = "path";
  event.message = message;
  event.path = change;
  Publish(std::move(event), warning);
}

void EventLog::Publish(EventView event, bool warning) {
  const std::string line = event.port.empty() ? event.message : event.port + ": " + event.message;
  spdlog::log(warning ? spdlog::level::warn : spdlog::level::info, "{}", line);
  event.id = next_event_++;
  event.time_unix_us =
      std::chrono::duration_cast<std::chrono::microseconds>(std::chrono::system_clock::now().time_since_epoch())
          .count();
  events_.push_back(event);
  if (events_.size() > kKept) events_.pop_front();
  // A listener may unsubscribe itself meanwhile.
  const auto listeners = listeners_;
  for (const auto& [id, listener] : listeners) {
    if (listeners_.count(id)) listener(event);
  }
}

int EventLog::Subscribe(std::function<void(const EventView&)> listener) {
  listeners_.emplace(next_listener_, std::move(listener));
  return next_listener_++;
}

}  // namespace everport
