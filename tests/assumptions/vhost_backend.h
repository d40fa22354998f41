#pragma once

// A back-end of a few lines on librte_vhost itself, in this process, without anything of everport's: what it does is
// what the library does. EAL is started by the first one (ordinary pages, no devices).

#include <cstdint>
#include <string>
#include <vector>

#include "absl/time/time.h"

struct rte_mempool;

namespace everport::assumptions {

// What librte_vhost reported, in order.
struct Event {
  enum Kind { kNewConnection, kDestroyConnection, kNewDevice, kDestroyDevice, kVringOn, kVringOff } kind;
  int vring = -1;
};

class VhostBackend {
 public:
  explicit VhostBackend(const std::string& socket);  // registers as a client and starts
  ~VhostBackend();
  VhostBackend(const VhostBackend&) = delete;
  VhostBackend& operator=(const VhostBackend&) = delete;

  // Waits until `count` events of this kind have come since the start. False: not by then.
  bool WaitFor(Event::Kind kind, unsigned count, absl::Duration timeout) const;
  unsigned Count(Event::Kind kind) const;
  int vid() const;

  // At most `most` frames from queue pair 0's transmit ring, dropped; how many there were.
  unsigned Dequeue(unsigned most);
  // Frames of `bytes` into queue pair 0's receive ring; how many were taken.
  unsigned Enqueue(unsigned count, unsigned bytes);
  struct Base {
    uint16_t avail = 0, used = 0;
  };
  Base VringBase(unsigned vring) const;

 private:
  std::string socket_;
};

}  // namespace everport::assumptions
