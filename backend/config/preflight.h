#pragma once

// What a configuration asks of the host and what can be looked at without starting: `--check`. Reads the file system
// alone, changes nothing. Any thread.

#include <string>
#include <vector>

#include "backend/config/config.h"

namespace everport {

enum class PreflightFor {
  kKeeper,  // folders: run_dir, those of QEMU's sockets
  kDaemon,  // besides: state_dir, pollers' CPUs, hugepages where they are demanded, what uplinks stand on
};

struct PreflightHost {
  std::string root;                    // of the host's files; "" but in tests
  std::vector<unsigned> allowed_cpus;  // AllowedCpus()
};

// What is missing, one line each: object, cause, mend. Paths are looked at with the permissions of this process.
std::vector<std::string> Preflight(const Config& config, PreflightFor program, const PreflightHost& host);

// What `PROGRAM --check` prints, and its exit status: 0 all is well, 1 something is missing on this host.
int ReportPreflight(const std::string& program, const std::string& file, const Config& config,
                    const std::vector<std::string>& missing);
// The same of a file that was refused: each fault on a line of its own on stderr. Status 78 (EX_CONFIG).
int ReportRefused(const std::string& program, const absl::Status& refused);

}  // namespace everport
