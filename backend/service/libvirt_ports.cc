#include "backend/service/libvirt_ports.h"

#include <algorithm>
#include <cstddef>
#include <map>
#include <optional>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "backend/config/check.h"

namespace everport {
namespace {

using config::Quote;
using migration::Nic;
using migration::SeenDomain;

// An interface where it was seen.
struct Seen {
  const SeenDomain* domain;
  const Nic* nic;
  size_t number;  // among its domain's
};

uint16_t Narrow(unsigned value) {  // what is too large stays out of range
  return static_cast<uint16_t>(std::min(value, 0xffffu));
}

std::string NormalMac(const std::string& mac) {
  uint8_t bytes[6];
  return ParseMac(mac, bytes) ? FormatMac(bytes) : mac;
}

bool SameInterface(const PortConfig& port, const Nic& nic) {
  return port.mac == NormalMac(nic.mac) && port.queue_pairs == Narrow(nic.queue_pairs) &&
         (nic.mtu == 0 || port.mtu == Narrow(nic.mtu));
}

// What an interface lies in the folder as; nothing: it is not there. An error: it is, in no way that will do.
absl::StatusOr<std::optional<std::string>> FileIn(const std::string& folder, const std::string& socket) {
  absl::string_view rest = socket;
  if (!absl::ConsumePrefix(&rest, folder == "/" ? folder : folder + "/")) return std::nullopt;
  const std::string within = absl::StrCat("/", rest, "/");
  if (absl::StrContains(within, "/../") || absl::StrContains(within, "/./") || absl::StrContains(within, "//")) {
    return absl::FailedPreconditionError("its path is not written the plain way; take out '//', '.' and '..'");
  }
  if (absl::StrContains(rest, "/")) return std::nullopt;
  return std::string(rest);
}

class Planner {
 public:
  explicit Planner(const DomainPortsInput& input) : in_(input) {}
  DomainPortsPlan Plan();

 private:
  void Gather();
  void Keep(const DomainPort& port);
  bool Holds(const DomainPort& port, const Seen* claimant);
  absl::StatusOr<std::optional<DomainPort>> Make(const Seen& seen) const;
  void Admit(std::vector<DomainPort> candidates);
  void Refuse(const std::string& domain, const std::string& socket, const std::string& mac, absl::string_view why);

  const DomainPortsInput& in_;
  DomainPortsPlan plan_;
  std::vector<Seen> interfaces_;
  std::map<std::string, const Seen*> by_socket_;  // the one that has it
  std::set<std::string> unreadable_;              // UUIDs
  std::set<std::string> served_;                  // sockets of plan_.made
  std::map<std::string, std::string> held_;       // of those, the ones that are not their claimant's yet: why
};

void Planner::Refuse(const std::string& domain, const std::string& socket, const std::string& mac,
                     absl::string_view why) {
  plan_.refused.push_back(
      absl::StrCat(DomainText(domain), ": interface ", Quote(mac), " on ", Quote(socket), ": no port: ", why));
}

void Planner::Gather() {
  for (const SeenDomain& domain : in_.domains) {
    if (!domain.status.ok()) unreadable_.insert(domain.uuid);
    size_t number = 0;
    for (const Nic& nic : domain.domain.nics) interfaces_.push_back({&domain, &nic, number++});
  }
  std::map<std::string, std::string> owners;  // of sockets
  for (const DomainPort& port : in_.made) owners[port.config.socket] = port.uuid;
  for (const Seen& seen : interfaces_) {
    const Seen*& holder = by_socket_[seen.nic->socket];
    const auto owner = owners.find(seen.nic->socket);
    const auto owns = [&](const Seen& one) { return owner != owners.end() && one.domain->uuid == owner->second; };
    // A QEMU that waits for its port goes before one that may come.
    const auto rank = [&](const Seen& one) { return std::pair(one.domain->active, owns(one)); };
    if (!holder || rank(seen) > rank(*holder)) holder = &seen;
  }
}

// Whether the port stays as it is, though its socket is nobody's, or another interface's, by what was seen.
bool Planner::Holds(const DomainPort& port, const Seen* claimant) {
  const std::string& socket = port.config.socket;
  if (unreadable_.count(port.uuid)) {  // what it has is not known; whoever else names that socket has to wait
    if (claimant) held_[socket] = absl::StrCat(DomainText(port.domain), ", which cannot be read now, had that socket");
    return true;
  }
  // A QEMU that runs has taken the socket over; one that may come has not.
  if (!claimant || claimant->domain->active || SameInterface(port.config, *claimant->nic) ||
      !in_.may_have_guest(port.config.name)) {
    return false;
  }
  held_[socket] = absl::StrCat("a QEMU of ", DomainText(port.domain), ", interface ", Quote(port.config.mac),
                               ", is connected to that socket");
  plan_.linger.push_back(port.config.name);
  return true;
}

void Planner::Keep(const DomainPort& port) {
  const auto found = by_socket_.find(port.config.socket);
  const Seen* const claimant = found == by_socket_.end() ? nullptr : found->second;
  if (Holds(port, claimant)) {
    plan_.made.push_back(port);
  } else if (!claimant) {
    if (!in_.may_have_guest(port.config.name)) return plan_.remove.push_back(port.config.name);
    plan_.linger.push_back(port.config.name);
    plan_.made.push_back(port);
  } else if (const Seen& seen = *claimant; SameInterface(port.config, *seen.nic)) {
    plan_.made.push_back({port.config, seen.domain->uuid, seen.domain->domain.name});
  } else {
    auto anew = Make(seen);
    if (!anew.ok() || !*anew) {
      if (!anew.ok()) Refuse(seen.domain->domain.name, seen.nic->socket, seen.nic->mac, anew.status().message());
      return plan_.remove.push_back(port.config.name);
    }
    plan_.made.push_back(**std::move(anew));
    plan_.replace.push_back(port.config.name);
  }
  served_.insert(port.config.socket);
}

// Nothing: it is not ours to make.
absl::StatusOr<std::optional<DomainPort>> Planner::Make(const Seen& seen) const {
  const Nic& nic = *seen.nic;
  const auto file = FileIn(in_.config.socket_folder, nic.socket);
  if (!file.ok()) return file.status();
  if (!*file) return std::nullopt;
  if (in_.is_symlink(nic.socket)) {
    return absl::FailedPreconditionError(
        "its path is a symbolic link, which may lead anywhere; let QEMU make its socket in the folder");
  }
  if (!nic.server) {
    return absl::FailedPreconditionError("QEMU is the client of that socket; write mode='server' into its <source>");
  }
  const std::string name(absl::StripSuffix(**file, ".sock"));
  if (!config::ValidName(name)) {
    return absl::FailedPreconditionError(absl::StrCat("its port is called as its socket without .sock, and ",
                                                      Quote(name), " is not a port name; ", config::kNameMend));
  }
  DomainPort port{{}, seen.domain->uuid, seen.domain->domain.name};
  port.config.name = name;
  port.config.socket = nic.socket;
  port.config.mac = nic.mac;
  port.config.queue_pairs = Narrow(nic.queue_pairs);
  port.config.mtu = nic.mtu == 0 ? in_.config.mtu : Narrow(nic.mtu);
  port.config.contract = in_.config.contract;
  port.config.failback_delay_ms = in_.config.failback_delay_ms;
  auto uplinks = FillUplinks(in_.config.uplinks, {name, port.domain, NormalMac(nic.mac), seen.number});
  if (!uplinks.ok()) return uplinks.status();
  port.config.uplinks = *std::move(uplinks);
  if (absl::Status status = CheckPort(port.config, absl::StrCat("port ", name), in_.contracts); !status.ok())
    return status;
  return port;
}

// Together with all others; of two that clash the later is refused.
void Planner::Admit(std::vector<DomainPort> candidates) {
  std::vector<PortConfig> standing = in_.others;
  for (const DomainPort& port : plan_.made) standing.push_back(port.config);
  for (std::map<size_t, std::string> faults; true;) {
    std::vector<PortConfig> together = standing;
    for (const DomainPort& port : candidates) together.push_back(port.config);
    faults.clear();
    const auto refer = [&](size_t port, absl::string_view) { return absl::StrCat("port ", together[port].name); };
    for (const auto& [port, problem] : config::FindSetProblems(together, UnknownPeer::kAllow, refer)) {
      if (port < standing.size()) continue;  // they have been let in as they are
      faults.try_emplace(port - standing.size(), absl::StrCat("port ", together[port].name, ": ", problem.text));
    }
    if (faults.empty()) break;
    for (auto fault = faults.rbegin(); fault != faults.rend(); ++fault) {
      const auto at = candidates.begin() + static_cast<std::ptrdiff_t>(fault->first);
      Refuse(at->domain, at->config.socket, at->config.mac, fault->second);
      candidates.erase(at);
    }
  }
  for (DomainPort& port : candidates) {
    plan_.add.push_back(port.config.name);
    plan_.made.push_back(std::move(port));
  }
}

DomainPortsPlan Planner::Plan() {
  Gather();
  for (const DomainPort& port : in_.made) Keep(port);
  std::set<std::string> taken;  // sockets of ports that are not ours
  for (const PortConfig& port : in_.others) taken.insert(port.socket);
  std::vector<DomainPort> candidates;
  for (const Seen& seen : interfaces_) {
    const std::string& socket = seen.nic->socket;
    const Seen& holder = *by_socket_.at(socket);
    const auto refuse = [&](absl::string_view why) { Refuse(seen.domain->domain.name, socket, seen.nic->mac, why); };
    if (&holder != &seen) {
      if (const auto file = FileIn(in_.config.socket_folder, socket); !file.ok() || *file) {
        refuse(absl::StrCat(DomainText(holder.domain->domain.name), ", interface ", Quote(holder.nic->mac),
                            ", has that socket; give each interface its own"));
      }
      continue;
    }
    if (const auto held = held_.find(socket); held != held_.end()) {
      refuse(absl::StrCat(held->second, "; give each interface its own"));
      continue;
    }
    if (served_.count(socket) || taken.count(socket) || in_.left_alone.count(socket)) continue;
    auto port = Make(seen);
    if (!port.ok()) {
      refuse(port.status().message());
    } else if (*port) {
      candidates.push_back(**std::move(port));
    }
  }
  Admit(std::move(candidates));
  return std::move(plan_);
}

}  // namespace

std::string DomainText(const std::string& name) {
  return absl::StrCat("domain ", config::ValidName(name) ? name : Quote(name));
}

DomainPortsPlan PlanDomainPorts(const DomainPortsInput& input) {
  return Planner(input).Plan();
}

}  // namespace everport
