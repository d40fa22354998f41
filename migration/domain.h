#pragma once

// A libvirt domain, as far as it concerns us.

#include <string>
#include <vector>

namespace everport::migration {

// A vhostuser interface of a domain.
struct Nic {
  std::string socket, mac;
  bool server = true;        // QEMU listens; as the client of it, QEMU has no place for the keeper
  unsigned queue_pairs = 1;  // as it says, whatever it says
  unsigned mtu = 0;          // 0: it says none
  bool operator==(const Nic&) const = default;
};

struct Domain {
  std::string name;
  bool running = false;
  bool shared_memory = false;
  std::vector<Nic> nics;
};

}  // namespace everport::migration
