#pragma once

// Moving a guest from one path to another, as a state machine on values: what to do next, and what to do when it does
// not work. The daemon carries the actions out and reports back; nothing is done here. Not thread-safe: the control
// thread owns each instance.
//
// A switch quiesces the source, so that the ring indices are exact and nobody touches the rings, and starts the target
// from them. A target that does not start is answered by the next candidate; the source comes back into use if no other
// does. Only when nothing starts is the port left without a path.

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/time/time.h"

namespace everport {

class PathSwitch {
 public:
  enum class State {
    kSteady,     // active() serves the guest; -1: what it sends is dropped
    kQuiescing,  // the source was told to stop; Quiesced is awaited
    kStarting,   // the target was told to start; Started or StartFailed is awaited
  };
  struct Action {
    enum class Kind {
      kNone,
      kQuiesce,  // stop `path`; at once, without what is in flight, if it is not `orderly`
      kStart,    // start `path` from the rings' indices; -1: drop what the guest sends
      kReport,   // the switch is over: see report(); announce the guest through active() if that is a path
    } kind = Kind::kNone;
    int path = -1;
    bool orderly = true;

    bool operator==(const Action&) const = default;
  };
  // Of the last switch that ended.
  struct Report {
    int from = -1, to = -1;
    std::string cause;
    std::string refused;  // what did not start on the way, with its reasons; empty if the first target did
    bool orderly = true;
    // For how long nobody served the guest; with from -1, since it lost its last path.
    absl::Duration gap = absl::ZeroDuration();
    bool recovery = false;  // from is -1 because the last path was lost, and not because the guest has just come
    uint64_t lost = 0;      // frames that the source had taken and, as far as it tells, not sent
    bool replaced = false;  // the source was closed before (Close): `to` is another path, even under the same number

    bool operator==(const Report&) const = default;
  };

  State state() const { return state_; }
  int active() const { return active_; }
  // Of the switch under way; what is being started in kStarting.
  int target() const { return target_; }
  const Report& report() const { return report_; }

  // A switch to the first of `candidates` that starts (each at most once; -1 is none). orderly: the source works, so
  // that it can be drained, and is the last candidate of all, unless none is wanted. Only in kSteady; others must wait
  // (kNone is returned).
  Action Begin(std::vector<int> candidates, std::string cause, bool orderly, absl::Time now);
  Action Quiesced(absl::Time now);
  struct Outcome {
    // For how long nobody served the guest's rings, where that is known: a source that works may have served them until
    // the target did. Else, and if the source does not work, it is the time since Begin.
    std::optional<absl::Duration> unserved = std::nullopt;
    uint64_t lost = 0;  // Report's
  };
  Action Started(absl::Time now, const Outcome& outcome);
  Action Started(absl::Time now) { return Started(now, Outcome()); }
  Action StartFailed(const std::string& why, absl::Time now);
  // The guest has gone or was reset in the middle of it: `active` is what is in use.
  void Reset(int active);
  // The paths are numbered anew, and the active one is `active`. Only in kSteady.
  void Renumber(int active) { active_ = active; }
  // The active path has been stopped, in order, because it had to end before another can start: the next Begin is the
  // switch away from it, for this cause. Only in kSteady.
  void Close(std::string cause, absl::Time now);
  bool closed() const { return closed_.has_value(); }

 private:
  Action Next();
  Action Finish(absl::Duration gap, absl::Time now);

  State state_ = State::kSteady;
  int active_ = -1;
  int target_ = -1;
  std::vector<int> candidates_;  // yet to be tried, in order
  absl::Time began_;
  std::optional<absl::Time> pathless_since_;  // none served a guest that runs
  struct Closed {
    int path;
    std::string cause;
    absl::Time when;
  };
  std::optional<Closed> closed_;
  Report current_, report_;
};

}  // namespace everport
