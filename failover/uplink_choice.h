#pragma once

// Which uplink a port should use, and when to try a failed one again. Decides on values, with the time passed in;
// opens nothing. Not thread-safe: the control thread owns each instance.

#include <cstddef>
#include <optional>
#include <vector>

#include "absl/time/time.h"

namespace everport {

enum class UplinkState {
  kUntried,  // nothing is known of it: it is tried when no uplink that is preferred to it works
  kWorking,  // its last opening succeeded and no failure was reported since
  kFailed,   // its last opening failed, or it was lost; it is tried again when its delay is over
};

// One uplink's health, as a value.
struct UplinkHealth {
  UplinkState state = UplinkState::kUntried;
  absl::Time failed_since = absl::InfinitePast();     // of the first failure in a row; kFailed only
  absl::Time retry_at = absl::InfinitePast();         // kFailed only
  absl::Duration retry_delay = absl::ZeroDuration();  // what retry_at was computed with; kFailed only

  bool operator==(const UplinkHealth&) const = default;
};

inline constexpr absl::Duration kFirstRetry = absl::Milliseconds(100);
inline constexpr absl::Duration kLongestRetry = absl::Seconds(5);

// What to do now.
struct UplinkDecision {
  // The uplink to open, or to keep open, now; nothing if all have failed and none is due.
  std::optional<size_t> use;
  // Failed uplinks before `use` that are due: probe them without giving up `use`. Lowest index first.
  std::vector<size_t> probe;
  // When to ask again if no event comes first; infinite future if nothing waits.
  absl::Time next_retry = absl::InfiniteFuture();

  bool operator==(const UplinkDecision&) const = default;
};

// Pure: the decision for uplinks in order of preference. An uplink is usable if it is untried, working, or failed and
// due; the first that is not failed is used, and failed ones before it are probed when due. If all have failed, the
// first that is due is used.
UplinkDecision ChooseUplink(const std::vector<UplinkHealth>& uplinks, absl::Time now);

// The health after an event.
UplinkHealth AfterSuccess();
// Delays double from kFirstRetry to kLongestRetry with each failure in a row.
UplinkHealth AfterFailure(const UplinkHealth& health, absl::Time now);

}  // namespace everport
