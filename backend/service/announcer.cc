#include "backend/service/announcer.h"

#include <utility>

namespace everport {

Announcement Announcer::Asked(const MacAddress& mac) {
  asked_ = mac;
  const Announcement made = send_(mac);
  due_ = made == Announcement::kUnserved;
  return made;
}

Announcement Announcer::Served(bool moved, bool arrived) {
  const bool due = std::exchange(due_, false);
  if (!moved && !arrived && !due) return Announcement::kUnserved;
  timer_.cancel();
  return Make(0);
}

void Announcer::Forget() {
  timer_.cancel();
  asked_.reset();
  due_ = false;
}

Announcement Announcer::Make(int round) {
  const Announcement made = send_(mac());
  const bool again = made == Announcement::kSent || made == Announcement::kUnserved;
  if (!again || ++round == kAnnounceRounds) return made;
  timer_.expires_after(absl::ToChronoMilliseconds(AnnounceDelay(round)));
  timer_.async_wait([weak = std::weak_ptr<Announcer*>(alive_), round](boost::system::error_code error) {
    const auto alive = weak.lock();
    if (!error && alive) (*alive)->Make(round);
  });
  return made;
}

}  // namespace everport
