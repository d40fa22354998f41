#pragma once

// What is read from, and changed in, libvirt's XML of a domain. Pure; any thread.

#include <map>
#include <string>

#include "absl/status/statusor.h"
#include "migration/domain.h"

namespace everport::migration {

// name, nics, shared_memory; FailedPrecondition if it is no domain.
absl::StatusOr<Domain> ParseDomain(const std::string& xml);

// The same domain with other sockets for its vhostuser interfaces: sockets maps old to new; others stay as they are.
absl::StatusOr<std::string> WithSockets(const std::string& xml, const std::map<std::string, std::string>& sockets);

}  // namespace everport::migration
