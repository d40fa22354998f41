#include "failover/uplink_choice.h"

#include <algorithm>

namespace everport {

UplinkDecision ChooseUplink(const std::vector<UplinkHealth>& uplinks, absl::Time now) {
  UplinkDecision decision;
  std::vector<size_t> due;
  for (size_t i = 0; i < uplinks.size() && !decision.use; ++i) {
    if (uplinks[i].state != UplinkState::kFailed) {
      decision.use = i;
    } else if (uplinks[i].retry_at <= now) {
      due.push_back(i);
    } else {
      decision.next_retry = std::min(decision.next_retry, uplinks[i].retry_at);
    }
  }
  if (!decision.use && !due.empty()) {
    decision.use = due.front();
    due.clear();  // the others stay due, and have their turn when this one fails
  }
  decision.probe = std::move(due);
  return decision;
}

UplinkHealth AfterSuccess() {
  return {.state = UplinkState::kWorking};
}

UplinkHealth AfterFailure(const UplinkHealth& health, absl::Time now) {
  const bool again = health.state == UplinkState::kFailed;
  const absl::Duration delay = again ? std::min(2 * health.retry_delay, kLongestRetry) : kFirstRetry;
  return {.state = UplinkState::kFailed,
          .failed_since = again ? health.failed_since : now,
          .retry_at = now + delay,
          .retry_delay = delay};
}

}  // namespace everport
