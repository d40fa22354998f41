#pragma once

#include <cstdint>
#include <vector>

#include "backend/base/unique_fd.h"

namespace everport {

// A guest's memory and rings as they are when no poller uses them: what an offload device needs to work on them itself.
// A value but for its descriptors, which are duplicates of its own. The addresses are good while the guest's device
// lives, which GuestEndpoint::Retire and its stop hook bound.
struct GuestRings {
  struct Region {
    uint64_t gpa = 0, size = 0;  // bytes; guest physical
    void* address = nullptr;     // of the same bytes in this process
  };
  struct Ring {
    bool enabled = false;                    // started, and enabled by the guest
    uint16_t size = 0;                       // descriptors
    uint64_t desc = 0, avail = 0, used = 0;  // guest physical; packed: descriptors, driver and device event suppression
    // Next available and used position. Packed: with the wrap counter in bit 15 (vhost-user, "Ring states").
    uint16_t avail_base = 0, used_base = 0;
    // In this process, to see from outside whether the ring moves (virtio 1.2, 2.7.6 and 2.7.8). Split rings only.
    const volatile uint16_t* avail_idx = nullptr;
    const volatile uint16_t* used_idx = nullptr;
    UniqueFd kick, call;  // eventfds; invalid: the guest polls
  };
  uint64_t features = 0;  // negotiated
  std::vector<Region> regions;
  std::vector<Ring> rings;  // by vring index: 2q towards the guest, 2q + 1 from it
};

}  // namespace everport
