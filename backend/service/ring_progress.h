#pragma once

#include <cstdint>
#include <vector>

#include "absl/time/time.h"
#include "backend/datapath/guest_rings.h"

namespace everport {

// Whether a device that nobody polls still does what the guest asks of it, seen from outside by the split rings'
// indices. Control thread.
class RingProgress {
 public:
  // For how long the device has finished nothing of what the guest has sent; zero if there is nothing to finish.
  // Kicks the device meanwhile: a guest whose CPU was taken away just before it would have done so is no stall.
  uint64_t StalledMs(const GuestRings& rings, absl::Time now);
  // Whether it has finished anything since this began to look.
  bool moved() const { return moved_; }

 private:
  static constexpr absl::Duration kKickAfter = absl::Milliseconds(15);
  struct Ring {
    uint16_t used = 0;
    bool known = false;                         // used is what was seen once
    absl::Time since = absl::InfiniteFuture();  // without progress while there is something to do
    bool kicked = false;                        // since then, by us
  };
  std::vector<Ring> rings_;  // by vring
  bool moved_ = false;
};

}  // namespace everport
