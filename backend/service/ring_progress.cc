#include "backend/service/ring_progress.h"

#include <algorithm>

#include "backend/base/event_signal.h"

namespace everport {

uint64_t RingProgress::StalledMs(const GuestRings& rings, absl::Time now) {
  rings_.resize(rings.rings.size());
  absl::Duration longest = absl::ZeroDuration();
  for (size_t vring = 1; vring < rings.rings.size(); vring += 2) {  // from the guest
    const GuestRings::Ring& ring = rings.rings[vring];
    Ring& progress = rings_[vring];
    if (!ring.enabled || !ring.used_idx) continue;
    const uint16_t used = *ring.used_idx;
    if (used != progress.used || used == *ring.avail_idx) {
      moved_ = moved_ || (progress.known && used != progress.used);
      progress.known = true;
      progress.used = used;
      progress.since = absl::InfiniteFuture();
    } else if (progress.since == absl::InfiniteFuture()) {
      progress.since = now;
      progress.kicked = false;
    } else {
      if (!progress.kicked && now - progress.since >= kKickAfter) {
        progress.kicked = true;
        if (ring.kick.valid()) SignalEvent(ring.kick.get());
      }
      longest = std::max(longest, now - progress.since);
    }
  }
  return static_cast<uint64_t>(absl::ToInt64Milliseconds(longest));
}

}  // namespace everport
