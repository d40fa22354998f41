#pragma once

// Which ports libvirt's domains are to have: decided here on values, done by LibvirtWatcher. Pure; any thread.

#include <functional>
#include <set>
#include <string>
#include <vector>

#include "backend/config/config.h"
#include "migration/libvirt_watch.h"

namespace everport {

// A port that was made for an interface of a domain's.
struct DomainPort {
  PortConfig config;
  std::string uuid, domain;  // whose it is; domain: its name, which may be anything
  bool operator==(const DomainPort&) const = default;
};

struct DomainPortsPlan {
  std::vector<DomainPort> made;      // those that there are to be afterwards
  std::vector<std::string> remove;   // names: no domain has their sockets any more
  std::vector<std::string> linger;   // names, also in made: the same, but a guest may be there
  std::vector<std::string> replace;  // names, also in made: another interface has come to that socket
  std::vector<std::string> add;      // names, also in made
  std::vector<std::string> refused;  // interfaces that get no port: domain, interface, cause, mend
  bool operator==(const DomainPortsPlan&) const = default;
};

struct DomainPortsInput {
  const LibvirtConfig& config;
  const ContractSet& contracts;
  const std::vector<migration::SeenDomain>& domains;  // of a Sighting that is ok
  const std::vector<DomainPort>& made;
  const std::vector<PortConfig>& others;    // of the file and of the API: their names and sockets are left to them
  const std::set<std::string>& left_alone;  // sockets whose port was removed by hand
  std::function<bool(const std::string& path)> is_symlink;
  std::function<bool(const std::string& port)> may_have_guest;
};

// Of a port that has been made, what its interface says decides whether it is still that one's; what the configuration
// says now concerns those to come.
DomainPortsPlan PlanDomainPorts(const DomainPortsInput& input);

// "domain "vm 1"", for messages.
std::string DomainText(const std::string& name);

}  // namespace everport
