#include "failover/path_switch.h"

#include <algorithm>
#include <utility>

namespace everport {

PathSwitch::Action PathSwitch::Begin(std::vector<int> candidates, std::string cause, bool orderly, absl::Time now) {
  if (state_ != State::kSteady) return {};
  const bool away = std::any_of(candidates.begin(), candidates.end(), [](int path) { return path >= 0; });
  if (orderly && away && active_ >= 0) candidates.push_back(active_);
  candidates_.clear();
  for (int path : candidates) {
    if (path >= 0 && std::find(candidates_.begin(), candidates_.end(), path) == candidates_.end())
      candidates_.push_back(path);
  }
  current_ = {.from = active_, .to = -1, .cause = std::move(cause), .refused = {}, .orderly = orderly};
  began_ = now;
  if (auto closed = std::exchange(closed_, std::nullopt)) {
    current_.from = closed->path;
    current_.cause = std::move(closed->cause);
    current_.orderly = true;
    current_.replaced = true;
    began_ = closed->when;
  }
  if (active_ < 0) return Next();
  state_ = State::kQuiescing;
  return {Action::Kind::kQuiesce, active_, orderly};
}

PathSwitch::Action PathSwitch::Next() {
  state_ = State::kStarting;
  target_ = -1;
  if (!candidates_.empty()) {
    target_ = candidates_.front();
    candidates_.erase(candidates_.begin());
  }
  return {Action::Kind::kStart, target_, current_.orderly};
}

PathSwitch::Action PathSwitch::Quiesced(absl::Time) {
  return state_ == State::kQuiescing ? Next() : Action{};
}

PathSwitch::Action PathSwitch::Started(absl::Time now, const Outcome& outcome) {
  if (state_ != State::kStarting) return {};
  current_.lost = outcome.lost;
  const bool source_served = current_.orderly && current_.from >= 0;
  return Finish(source_served ? outcome.unserved.value_or(now - began_) : now - began_, now);
}

PathSwitch::Action PathSwitch::StartFailed(const std::string& why, absl::Time now) {
  if (state_ != State::kStarting) return {};
  if (!current_.refused.empty()) current_.refused += "; ";
  current_.refused += why;
  if (target_ < 0) return Finish(now - began_, now);  // even dropping did not start: there is nothing less
  return Next();
}

PathSwitch::Action PathSwitch::Finish(absl::Duration gap, absl::Time now) {
  state_ = State::kSteady;
  active_ = target_;
  current_.to = active_;
  current_.gap = gap;
  if (active_ < 0) {
    if (!pathless_since_) pathless_since_ = now;
  } else if (const auto since = std::exchange(pathless_since_, std::nullopt); since && current_.from < 0) {
    current_.gap = now - *since;
    current_.recovery = true;
  }
  report_ = std::move(current_);
  current_ = {};
  candidates_.clear();
  return {Action::Kind::kReport, active_, report_.orderly};
}

void PathSwitch::Close(std::string cause, absl::Time now) {
  if (active_ >= 0) closed_ = Closed{active_, std::move(cause), now};
  active_ = -1;
}

void PathSwitch::Reset(int active) {
  state_ = State::kSteady;
  active_ = active;
  pathless_since_.reset();
  closed_.reset();
  candidates_.clear();
}

}  // namespace everport
