#include "failover/health_monitor.h"

#include <algorithm>

namespace everport {

std::string_view TroubleText(Trouble trouble) {
  switch (trouble) {
    case Trouble::kNone:
      return "well";
    case Trouble::kLinkDown:
      return "link down";
    case Trouble::kStalled:
      return "transmit stalled";
    case Trouble::kNeedsReset:
      return "device needs a reset";
    case Trouble::kRemoved:
      return "device removed";
    case Trouble::kError:
      return "device error";
  }
  return "unknown";
}

bool NeedsReopening(Trouble trouble) {
  return trouble != Trouble::kNone && trouble != Trouble::kLinkDown;
}

// A failure of a trusted uplink sets how long it must prove itself; while it proves itself, each further one starts
// the same time anew.
void HealthMonitor::NoteFailure(absl::Time now) {
  if (has_failed_) return;
  has_failed_ = true;
  const absl::Duration shortest = std::max(failback_delay_, kShortestHold);
  const bool calm = hold_ == absl::ZeroDuration() || now - trusted_since_ >= kCalmFactor * hold_;
  hold_ = calm ? shortest : std::min(2 * hold_, std::max(shortest, kLongestHold));
}

void HealthMonitor::StartProving(absl::Time now) {
  state_ = State::kProving;
  trusted_at_ = now + hold_;
}

void HealthMonitor::OnOpening() {
  state_ = State::kOpening;
  event_while_opening_ = false;
}

void HealthMonitor::OnOpened(absl::Time now) {
  trouble_ = Trouble::kNone;
  hurried_ = false;
  retry_delay_ = absl::ZeroDuration();
  if (has_failed_) return StartProving(now);
  state_ = State::kTrusted;
  trusted_since_ = now;
}

void HealthMonitor::OnOpenFailed(absl::Time now) {
  NoteFailure(now);
  state_ = State::kClosed;
  retry_delay_ = retry_delay_ == absl::ZeroDuration() ? kFirstRetry : std::min(2 * retry_delay_, kLongestRetry);
  retry_at_ = now + retry_delay_;
  hurried_ = event_while_opening_ && !hurried_;
  if (hurried_) retry_at_ = now;
}

void HealthMonitor::OnClosed(absl::Time now) {
  state_ = State::kClosed;
  trouble_ = Trouble::kNone;
  retry_at_ = now;
}

bool HealthMonitor::OnCondition(Trouble trouble, absl::Time now) {
  if (!open() || trouble == trouble_) return false;
  trouble_ = trouble;
  if (trouble == Trouble::kNone) {
    StartProving(now);
    return false;
  }
  NoteFailure(now);
  if (!NeedsReopening(trouble)) {
    state_ = State::kTroubled;
    return false;
  }
  state_ = State::kClosed;
  retry_delay_ = kFirstRetry;
  retry_at_ = now + retry_delay_;
  return true;
}

void HealthMonitor::OnDeviceEvent(absl::Time now) {
  if (state_ == State::kOpening) event_while_opening_ = true;
  if (state_ == State::kClosed) retry_at_ = std::min(retry_at_, std::max(now, retry_at_ - retry_delay_ + kFirstRetry));
}

void HealthMonitor::Tick(absl::Time now) {
  if (state_ != State::kProving || now < trusted_at_) return;
  state_ = State::kTrusted;
  trusted_since_ = now;
  has_failed_ = false;
}

absl::Time HealthMonitor::next() const {
  if (state_ == State::kClosed) return retry_at_;
  if (state_ == State::kProving) return trusted_at_;
  return absl::InfiniteFuture();
}

}  // namespace everport
