#pragma once

#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "backend/cli/host_root.h"
#include "backend/config/config.h"

namespace everport::cli {

// `everportctl doctor`: finds the usual mistakes. Pure, but for the files below facts.root, which it only reads; it
// connects to no guest's socket, for a second connection would be one too many for QEMU.

enum class Level { kOk, kWarn, kFail };

struct Finding {
  Level level = Level::kOk;
  std::string object;  // "port vm1-net0", "hugepages"
  std::string text;    // what was found; the mend
};

struct DoctorPort {
  PortConfig config;
  std::string state;                       // as the daemon says; empty: it was not asked
  bool has_path = false;                   // as the daemon says
  std::vector<std::string> uplink_errors;  // as the daemon says, by uplink; empty ones are fine
};

struct DoctorHealth {
  bool ready = false;
  std::string keeper;
  std::vector<std::string> problems;
  std::string libvirt = {};  // "off", "connected", "not connected: …"
};

struct DoctorFacts {
  HostRoot root;
  std::string api_error;  // why the daemon could not be asked; empty: health is its answer
  std::optional<DoctorHealth> health;
  std::optional<DaemonConfig> daemon;  // from --config, or the running daemon's own
  std::vector<DoctorPort> ports;       // the daemon's, or from --config
  // What `exe --version` prints.
  std::function<absl::StatusOr<std::string>(const std::string& exe)> run_version;
  // Whether what the kernel sends through this interface has its checksums unfinished; empty: it cannot be asked.
  std::function<absl::StatusOr<bool>(const std::string& interface)> leaves_checksums;
};

std::vector<Finding> Examine(const DoctorFacts& facts);

// The parts of Examine; each appends what it finds.
void ExamineDaemon(const DoctorFacts& facts, std::vector<Finding>& findings);
void ExamineListener(const DoctorFacts& facts, std::vector<Finding>& findings);
void ExamineHost(const DoctorFacts& facts, std::vector<Finding>& findings);
void ExamineSocket(const DoctorFacts& facts, const DoctorPort& port, std::vector<Finding>& findings);
void ExamineQemu(const DoctorFacts& facts, const DoctorPort& port, std::vector<Finding>& findings);
void ExaminePath(const DoctorFacts& facts, const DoctorPort& port, std::vector<Finding>& findings);
void ExaminePostcopy(const DoctorFacts& facts, const DoctorPort& port, std::vector<Finding>& findings);
void ExamineUplinks(const DoctorFacts& facts, const DoctorPort& port, std::vector<Finding>& findings);

// What the daemon's problems of [daemon.listen] begin with.
inline constexpr const char* kListenProblem = "daemon.listen.";

// The QEMU whose chardev has this socket, and that chardev's argument.
struct QemuProcess {
  Process process;
  std::string chardev;
};
std::optional<QemuProcess> FindQemu(const HostRoot& root, const std::string& socket);

}  // namespace everport::cli
