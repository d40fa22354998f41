#pragma once

#include <cstdint>

#include "backend/datapath/guest_rings.h"

namespace everport {

// The simplest device there is: echoes a queue pair's frames from the positions that it is given, and looks at nothing
// else of what another device has left. Frames of one descriptor, buffers that hold one frame each. One thread.
class SoftDevice {
 public:
  explicit SoftDevice(const GuestRings& rings);
  unsigned RunOnce();  // frames echoed
  void Stop(GuestRings& rings) const;

 private:
  struct Ring {
    uint16_t size = 0, position = 0;
    const uint8_t* desc = nullptr;
    const uint16_t* avail = nullptr;
    uint16_t* used = nullptr;
  };
  uint8_t* Host(uint64_t gpa) const;
  bool EchoOne(Ring& rx, Ring& tx);
  void Use(Ring& ring, uint16_t head, uint32_t bytes);

  std::vector<GuestRings::Region> regions_;
  std::vector<Ring> rings_;
};

}  // namespace everport
