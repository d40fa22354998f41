#pragma once

#include <optional>
#include <string>

#include "absl/time/time.h"
#include "backend/api/service_api.h"
#include "backend/keeper/control_protocol.h"

namespace everport {

// Of one port: the guest's arrivals by post-copy, as the keeper tells of them. Control thread.
class PostcopyProgress {
 public:
  struct Told {
    std::string message;
    bool warning = false;
  };
  // What the keeper has said last. Returns the event that it makes, if any.
  std::optional<Told> Take(const SessionEvent& session, absl::Time now);

  // Whether a guest that runs now may lack pages of its memory. The keeper tells that post-copy is under way before it
  // tells that the guest runs; until then it may.
  bool PagesMayMiss() const { return listening() || state_ != SessionState::kRunning; }
  PostcopyView View(absl::Time now) const;

 private:
  bool listening() const { return phase_ == Postcopy::kListening; }

  SessionState state_ = SessionState::kWaiting;
  Postcopy phase_ = Postcopy::kNone;
  absl::Time since_;             // of listening
  absl::Duration last_, total_;  // that are over
  uint64_t completed_ = 0, broken_off_ = 0;
};

}  // namespace everport
