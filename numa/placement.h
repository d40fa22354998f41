#pragma once

// Which poller serves a port. Pure; any thread.

#include <string>
#include <vector>

namespace everport {

// A poller as placement sees it.
struct PollerLoad {
  int index = 0;
  int node = -1;       // of its CPUs; -1 unknown
  unsigned ports = 0;  // that it serves already
};

struct PollerChoice {
  int poller = -1;   // index of PollerLoad; -1: there is no poller
  int node = -1;     // that poller's
  std::string note;  // "local", or what is remote or unknown, and why
  bool operator==(const PollerChoice&) const = default;
};

// A poller on the guest's node if there is one, else any (node distances come with the full placement); of these the
// one with the fewest ports, of equals the lowest index. guest_node -1: not known (the guest has touched no memory
// yet).
PollerChoice ChoosePoller(const std::vector<PollerLoad>& pollers, int guest_node);

}  // namespace everport
