#include "backend/service/postcopy_progress.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace everport {

std::optional<PostcopyProgress::Told> PostcopyProgress::Take(const SessionEvent& session, absl::Time now) {
  state_ = session.state;
  const Postcopy before = std::exchange(phase_, session.postcopy);
  if (before == phase_) return std::nullopt;
  if (phase_ == Postcopy::kListening) {
    since_ = now;
    // The keeper lets no other daemon in before the end.
    if (before == Postcopy::kNone) {
      return Told{
          "post-copy is under way since before this daemon: the guest has no network until all its memory is here",
          true};
    }
    return Told{"the guest arrives by post-copy: until all its memory is here, pages are fetched as they are needed"};
  }
  if (before != Postcopy::kListening) {
    return Told{phase_ == Postcopy::kAdvised ? "the guest may arrive by post-copy" : "post-copy was not begun"};
  }
  last_ = now - since_;
  total_ += last_;
  const std::string took = absl::StrFormat("%.1f s", absl::ToDoubleSeconds(last_));
  if (session.state != SessionState::kWaiting) {
    ++completed_;
    return Told{absl::StrCat("post-copy has ended: all the guest's memory is here, after ", took)};
  }
  ++broken_off_;
  return Told{absl::StrCat("post-copy was broken off after ", took, session.reason.empty() ? "" : ": ", session.reason),
              true};
}

PostcopyView PostcopyProgress::View(absl::Time now) const {
  const absl::Duration current = listening() ? now - since_ : absl::ZeroDuration();
  return {.phase = std::string(PostcopyName(phase_)),
          .seconds = absl::ToDoubleSeconds(listening() ? current : last_),
          .completed = completed_,
          .broken_off = broken_off_,
          .total_seconds = absl::ToDoubleSeconds(total_ + current)};
}

}  // namespace everport
