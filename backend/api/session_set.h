#pragma once

// The connections of one listener. Control thread.

#include <memory>
#include <set>
#include <utility>

#include "backend/api/api_limits.h"
#include "backend/api/service_api.h"

namespace everport {

class Session {
 public:
  virtual ~Session() = default;
  // The end, from whatever state. It has forgotten itself afterwards.
  virtual void End() = 0;
};

// Sessions refer to it weakly: once the listener has gone, what is left of them does nothing.
class SessionSet {
 public:
  SessionSet(ServiceApi& service, const ApiLimits& limits) : service_(service), limits_(limits) {}

  void Add(std::shared_ptr<Session> session) { sessions_.insert(std::move(session)); }
  void Forget(const std::shared_ptr<Session>& session) { sessions_.erase(session); }
  void EndAll() {
    for (const auto& session : std::set(sessions_)) session->End();
  }

  ServiceApi& service() { return service_; }
  const ApiLimits& limits() const { return limits_; }
  const std::set<std::shared_ptr<Session>>& sessions() const { return sessions_; }
  bool full() const { return sessions_.size() >= limits_.connections; }

 private:
  ServiceApi& service_;
  const ApiLimits limits_;
  std::set<std::shared_ptr<Session>> sessions_;
};

}  // namespace everport
