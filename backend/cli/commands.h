#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "backend/cli/client.h"
#include "backend/config/config.h"

namespace everport::cli {

// The verbs. Each writes its result to client.out() or returns an error: object, cause, mend. InvalidArgument means
// that the command line itself is wrong (exit status 2); what a file or the daemon says is another error.

absl::Status ShowPorts(const Client& client);
absl::Status ShowStats(const Client& client, const std::string& port);  // empty: all ports; else one, by queue
absl::Status ShowPlacement(const Client& client);
// Of a contract's name, of a port's name; empty: the list of contracts.
absl::Status ShowContracts(const Client& client, const std::string& name);
// The API of another daemon, by what --api takes.
using OpenApi = std::function<absl::StatusOr<HttpClient>(const std::string& where, std::chrono::seconds timeout)>;
// against: a contract document's path, or another daemon's api.sock or URL. FailedPrecondition when something breaks.
absl::Status CheckContract(const Client& client, const std::string& port, const std::string& against,
                           const OpenApi& open);
// FailedPrecondition when the daemon is not ready.
absl::Status ShowHealth(const Client& client);
absl::Status ShowVersion(const Client& client);
absl::Status ShowEvents(const Client& client, bool follow);

struct PortAddOptions {
  std::string name, socket, mac, contract, file;
  std::vector<std::string> uplinks;  // KIND:DEVICE[,bridge=BR][,bind]
  uint32_t queue_pairs = 1, mtu = 1500;
  uint32_t failback_delay_ms = PortConfig{}.failback_delay_ms;
  bool postcopy = false;
};
absl::Status AddPort(const Client& client, const PortAddOptions& options);
absl::Status RemovePort(const Client& client, const std::string& name);
absl::Status ShowPort(const Client& client, const std::string& name);
absl::Status SwitchPath(const Client& client, const std::string& name, int index);

// KIND:DEVICE[,bridge=BR][,bind]. InvalidArgument begins with the option.
absl::StatusOr<UplinkConfig> ParseUplink(const std::string& option, const std::string& text);

struct MigrateOptions {
  std::string api, dest_api;  // as --api takes them
  std::string domain, from = "qemu:///system", to, migrate_uri, dest_socket_dir;
  std::vector<std::string> dest_uplinks;  // [PORT=]KIND:DEVICE[,bridge=BR][,bind]
  double cancel_after_s = -1;             // negative: never
  uint64_t bandwidth_mib_s = 0;           // 0: no limit
  uint32_t timeout_s = 30;
  bool postcopy = false, dry_run = false;
};
// Kills nothing but its own migration: SIGINT, SIGTERM and SIGHUP cancel it, twice ends the process at once.
absl::Status RunMigrate(const Client& client, const MigrateOptions& options, const OpenApi& open);

absl::Status ShowLibvirtXml(const Client& client, const std::string& name);

struct DoctorOptions {
  std::string config;  // everport.toml, for when the daemon does not answer
  std::string root;    // of the host's files; empty but in tests
};
// FailedPrecondition when there is a FAIL among the findings.
absl::Status RunDoctor(const Client& client, const DoctorOptions& options);

// GET /v1/ports/{name}; a name that cannot be one is refused here.
absl::StatusOr<boost::json::value> GetPort(const Client& client, const std::string& name);

}  // namespace everport::cli
