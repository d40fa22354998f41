#pragma once

#include "absl/time/time.h"

namespace everport::fakes {

// A clock that stands still until the test moves it. Pass `[&clock] { return clock.Now(); }` where a clock is injected.
class ManualClock {
 public:
  explicit ManualClock(absl::Time start = absl::FromUnixSeconds(1'000'000)) : now_(start) {}
  absl::Time Now() const { return now_; }
  void Advance(absl::Duration by) { now_ += by; }

 private:
  absl::Time now_;
};

}  // namespace everport::fakes
