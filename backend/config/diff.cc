#include <unordered_map>

#include "backend/config/config.h"

namespace everport {
namespace {

using ByName = std::unordered_map<std::string_view, const PortConfig*>;

ByName Index(const std::vector<PortConfig>& ports) {
  ByName index;
  for (const PortConfig& port : ports) index.emplace(port.name, &port);
  return index;
}

// What QEMU's session was built from: the guest sees these.
bool SameSession(const PortConfig& a, const PortConfig& b) {
  return a.socket == b.socket && a.queue_pairs == b.queue_pairs && a.mtu == b.mtu && a.contract == b.contract &&
         a.postcopy == b.postcopy;
}

}  // namespace

PortDiff DiffPorts(const std::vector<PortConfig>& from, const std::vector<PortConfig>& to) {
  const ByName before = Index(from), after = Index(to);
  PortDiff diff;
  for (const PortConfig& port : from) {
    if (!after.contains(port.name)) diff.removed.push_back(port.name);
  }
  for (const PortConfig& port : to) {
    const auto old = before.find(port.name);
    if (old == before.end()) {
      diff.added.push_back(port.name);
    } else if (!SameSession(*old->second, port)) {
      diff.session_changed.push_back(port.name);
    } else if (*old->second != port) {
      diff.uplink_changed.push_back(port.name);
    }
  }
  return diff;
}

}  // namespace everport
