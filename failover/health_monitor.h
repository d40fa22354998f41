#pragma once

// Whether an uplink can be trusted with a guest's traffic: what its device tells, made into states with hysteresis.
// Failure counts at once, recovery only after a while of continuous health, and longer each time if the device flaps.
// Decides on values, with the time passed in; opens, closes and watches nothing itself. Not thread-safe: the control
// thread owns each instance.

#include <string_view>

#include "absl/time/time.h"

namespace everport {

// What is wrong with an uplink's device, as its driver, the kernel or the data path tells.
enum class Trouble {
  kNone,
  kLinkDown,    // no carrier; it may come back by itself
  kStalled,     // it takes frames or ring entries and does not finish them
  kNeedsReset,  // it was reset behind our back (a VF by its PF), or asks for a reset (virtio DEVICE_NEEDS_RESET)
  kRemoved,     // the device has gone
  kError,       // its driver or the kernel reported an error
};
std::string_view TroubleText(Trouble trouble);  // "link down", "device removed", …
// Whether the device must be closed and opened anew; else it is watched where it is.
bool NeedsReopening(Trouble trouble);

// Delays between attempts to open a device double from the first to the longest while they fail.
inline constexpr absl::Duration kFirstRetry = absl::Milliseconds(100);
inline constexpr absl::Duration kLongestRetry = absl::Seconds(5);
// The shortest proving time; failback_delay counts where it is longer.
inline constexpr absl::Duration kShortestHold = absl::Milliseconds(100);
// The proving time doubles with each failure of a trusted uplink up to this (or failback_delay, if that is longer), and
// starts from its shortest again after kCalmFactor times as long without a failure.
inline constexpr absl::Duration kLongestHold = absl::Seconds(60);
inline constexpr int kCalmFactor = 10;

class HealthMonitor {
 public:
  enum class State {
    kClosed,    // not open: never tried, or it failed; opened when OpeningDue
    kOpening,   // an attempt to open it is under way
    kTrusted,   // open and well: may be preferred to another
    kProving,   // open and well since a failure not long ago: used only while nothing that is trusted works
    kTroubled,  // open, but its device says that it does not work now
  };

  explicit HealthMonitor(absl::Duration failback_delay) : failback_delay_(failback_delay) {}

  State state() const { return state_; }
  bool open() const { return state_ == State::kTrusted || state_ == State::kProving || state_ == State::kTroubled; }
  bool usable() const { return state_ == State::kTrusted || state_ == State::kProving; }
  Trouble trouble() const { return trouble_; }

  bool OpeningDue(absl::Time now) const { return state_ == State::kClosed && now >= retry_at_; }
  void OnOpening();
  void OnOpened(absl::Time now);
  void OnOpenFailed(absl::Time now);
  // It was closed without being at fault.
  void OnClosed(absl::Time now);
  // What its device tells now; the same as before changes nothing. Returns whether it must be closed.
  bool OnCondition(Trouble trouble, absl::Time now);
  // A device has appeared, or was bound to another driver: worth a try at once. But not within kFirstRetry of the last
  // one: trying may announce devices by itself. While it is being opened: it is tried again at once if that fails, but
  // not twice in a row.
  void OnDeviceEvent(absl::Time now);
  void Tick(absl::Time now);
  // When Tick or OpeningDue would say something new; infinite future if never.
  absl::Time next() const;
  // When it will be trusted, kProving only.
  absl::Time trusted_at() const { return trusted_at_; }
  absl::Duration hold() const { return hold_; }

 private:
  void NoteFailure(absl::Time now);
  void StartProving(absl::Time now);

  const absl::Duration failback_delay_;
  State state_ = State::kClosed;
  Trouble trouble_ = Trouble::kNone;
  bool has_failed_ = false;  // since it was last trusted
  bool event_while_opening_ = false;
  bool hurried_ = false;  // the attempt before was followed by one at once
  absl::Time trusted_since_ = absl::InfinitePast();
  absl::Time retry_at_ = absl::InfinitePast();
  absl::Duration retry_delay_ = absl::ZeroDuration();
  absl::Time trusted_at_ = absl::InfiniteFuture();
  absl::Duration hold_ = absl::ZeroDuration();  // of the last failure; zero: none yet
};

}  // namespace everport
