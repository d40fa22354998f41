#include "backend/service/event_log.h"

#include <chrono>

#include "backend/base/log.h"

namespace everport {

void EventLog::Add(const std::string& port, const std::string& type, const std::string& message, bool warning) {
  const std::string line = port.empty() ? message : port + ": " + message;
  spdlog::log(warning ? spdlog::level::warn : spdlog::level::info, "{}", line);
  EventView event;
  event.id = next_event_++;
  event.time_unix_us =
      std::chrono::duration_cast<std::chrono::microseconds>(std::chrono::system_clock::now().time_since_epoch())
          .count();
  event.port = port;
  event.type = type;
  event.message = message;
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
