#include "backend/service/announcer.h"

#include <utility>

namespace everport {

bool Announcer::Asked(const MacAddress& mac) {
  asked_ = mac;
  const bool made = send_(mac);
  due_ = !made;
  return made;
}

void Announcer::Served(bool moved, bool arrived) {
  const bool due = std::exchange(due_, false);
  if (moved || arrived || due) Make(0);
}

void Announcer::Forget() {
  timer_.cancel();
  asked_.reset();
  due_ = false;
}

void Announcer::Make(int round) {
  send_(mac());
  if (++round == kAnnounceRounds) return;
  timer_.expires_after(absl::ToChronoMilliseconds(AnnounceDelay(round)));
  timer_.async_wait([weak = std::weak_ptr<Announcer*>(alive_), round](boost::system::error_code error) {
    const auto alive = weak.lock();
    if (!error && alive) (*alive)->Make(round);
  });
}

}  // namespace everport
