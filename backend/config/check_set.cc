// The rules that ports must keep among each other.
#include <algorithm>
#include <filesystem>
#include <unordered_map>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "backend/config/check.h"
#include "backend/config/claim.h"

namespace everport {
namespace config {
namespace {

using Faults = std::vector<SetProblem>;

SetProblem Breach(size_t port, absl::string_view key, std::string text) {
  return {port, Problem{std::string(key), std::move(text)}};
}

// Values that may occur once in all ports, with where each was first seen.
class Taken {
 public:
  struct Place {
    size_t port;
    std::string key;
  };
  // The place of the first use if there was one already.
  const Place* Claim(std::string value, size_t port, std::string key) {
    const auto [it, fresh] = seen_.try_emplace(std::move(value), Place{port, std::move(key)});
    return fresh ? nullptr : &it->second;
  }

 private:
  std::unordered_map<std::string, Place> seen_;
};

Faults FindSharedIdentity(const std::vector<PortConfig>& ports, const Refer& refer) {
  Faults faults;
  Taken names, sockets, macs;
  for (size_t i = 0; i < ports.size(); ++i) {
    const PortConfig& port = ports[i];
    if (const auto* first = names.Claim(port.name, i, "name")) {
      faults.push_back(Breach(i, "name",
                              absl::StrCat(Quote(port.name), " is already the name of ", refer(first->port, "name"),
                                           "; give one of them another")));
      continue;  // a port that was copied: one fault is enough
    }
    const std::string path = std::filesystem::path(port.socket).lexically_normal().string();
    if (const auto* first = sockets.Claim(path, i, "socket")) {
      faults.push_back(Breach(i, "socket",
                              absl::StrCat(Quote(port.socket), " is already the socket of ",
                                           refer(first->port, "socket"), "; a socket serves one port: change one")));
    }
    // Equal addresses that were written down are the operator's choice (ports on separate networks); two names that
    // hash to one address are an accident.
    const auto* first = macs.Claim(port.mac, i, "mac");
    if (first && (port.mac == DefaultMac(port.name) || port.mac == DefaultMac(ports[first->port].name))) {
      faults.push_back(Breach(i, "mac",
                              absl::StrCat("the address ", port.mac, ", made from the name, is also that of ",
                                           refer(first->port, "mac"), "; give one of them a mac of its own")));
    }
  }
  return faults;
}

// The uplink that claimed something first.
struct Taker {
  size_t port, uplink;
  bool listens;
};

std::string TakenText(const Claim& claim, const Taker& first, size_t port, const Refer& refer) {
  if (first.port == port) {
    return absl::StrCat(claim.object, " is already used by uplink[", first.uplink,
                        "] of the same port; an uplink is listed once: remove one, or name another device");
  }
  return absl::StrCat(claim.object, " is already used by ",
                      refer(first.port, absl::StrCat("uplink[", first.uplink, "].device")),
                      "; an uplink belongs to one port: name another device");
}

Faults FindSharedDevice(const std::vector<PortConfig>& ports, const Refer& refer) {
  Faults faults;
  std::unordered_map<std::string, Taker> takers;  // by what is claimed
  for (size_t i = 0; i < ports.size(); ++i) {
    for (size_t u = 0; u < ports[i].uplinks.size(); ++u) {
      bool told = false;  // one fault for each uplink
      for (const Claim& claim : ClaimsOf(ports[i].uplinks[u])) {
        const auto [first, fresh] = takers.try_emplace(claim.object, Taker{i, u, claim.listens});
        const bool own = first->second.port == i && first->second.uplink == u;
        if (fresh || own || (first->second.port == i && first->second.listens && claim.listens)) continue;
        if (!std::exchange(told, true)) {
          faults.push_back(
              Breach(i, absl::StrCat("uplink[", u, "].device"), TakenText(claim, first->second, i, refer)));
        }
      }
    }
  }
  return faults;
}

bool WiredTo(const PortConfig& port, absl::string_view peer) {
  return std::any_of(port.uplinks.begin(), port.uplinks.end(), [&](const UplinkConfig& uplink) {
    return uplink.kind == UplinkKind::kPort && uplink.device == peer;
  });
}

Faults FindOneSidedWires(const std::vector<PortConfig>& ports, UnknownPeer unknown_peer, const Refer& refer) {
  Faults faults;
  std::unordered_map<std::string_view, size_t> by_name;
  for (size_t i = 0; i < ports.size(); ++i) by_name.emplace(ports[i].name, i);
  for (size_t i = 0; i < ports.size(); ++i) {
    for (size_t u = 0; u < ports[i].uplinks.size(); ++u) {
      const UplinkConfig& uplink = ports[i].uplinks[u];
      if (uplink.kind != UplinkKind::kPort) continue;
      const std::string key = absl::StrCat("uplink[", u, "].device");
      const auto peer = by_name.find(uplink.device);
      if (peer == by_name.end()) {
        if (unknown_peer == UnknownPeer::kAllow) continue;
        faults.push_back(
            Breach(i, key, absl::StrCat("there is no port ", Quote(uplink.device), "; declare it, or name another")));
      } else if (!WiredTo(ports[peer->second], ports[i].name)) {
        std::string other = refer(peer->second, "name");
        if (!absl::EndsWith(other, " " + uplink.device)) absl::StrAppend(&other, " (", uplink.device, ")");
        faults.push_back(
            Breach(i, key,
                   absl::StrCat("a wire has two ends, and ", other, " has no uplink of kind \"port\" back to \"",
                                ports[i].name, "\"; add one there")));
      }
    }
  }
  return faults;
}

}  // namespace

std::vector<SetProblem> FindSetProblems(const std::vector<PortConfig>& ports, UnknownPeer unknown_peer,
                                        const Refer& refer) {
  Faults faults = FindSharedIdentity(ports, refer);
  const bool named =
      std::none_of(faults.begin(), faults.end(), [](const SetProblem& fault) { return fault.problem.key == "name"; });
  for (SetProblem& fault : FindSharedDevice(ports, refer)) faults.push_back(std::move(fault));
  if (!named) return faults;
  for (SetProblem& fault : FindOneSidedWires(ports, unknown_peer, refer)) faults.push_back(std::move(fault));
  return faults;
}

}  // namespace config

absl::Status CheckPorts(const std::vector<PortConfig>& ports, UnknownPeer unknown_peer) {
  const auto refer = [&](size_t port, absl::string_view) { return absl::StrCat("port ", ports[port].name); };
  const auto found = config::FindSetProblems(ports, unknown_peer, refer);
  if (found.empty()) return absl::OkStatus();
  const auto& [port, first] = found.front();
  return absl::Status(first.code, absl::StrCat("port ", ports[port].name, ": ", first.key, ": ", first.text));
}

}  // namespace everport
