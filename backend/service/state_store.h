#pragma once

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "backend/config/config.h"

namespace everport {

// The ports that were added by the API: <state_dir>/ports.json, an array of port objects, replaced atomically.
class StateStore {
 public:
  explicit StateStore(std::string dir) : dir_(std::move(dir)) {}

  // Empty when there is no file yet. An unreadable or malformed file is an error that names it and the mend.
  absl::StatusOr<std::vector<PortConfig>> Load() const;
  // After OkStatus the new content survives a power cut; otherwise the old file is as it was.
  absl::Status Save(const std::vector<PortConfig>& ports) const;

 private:
  std::string path() const { return dir_ + "/ports.json"; }
  const std::string dir_;
};

}  // namespace everport
