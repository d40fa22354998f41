#pragma once

// What a VF's physical function allows it: `ip link show PF`. Needs no privilege.

#include <array>
#include <cstdint>
#include <string>

#include "absl/status/statusor.h"

namespace everport {

struct VfSettings {
  std::array<uint8_t, 6> mac{};  // all zero: none yet
  bool trusted = false;          // may receive what is not addressed to it (promiscuous)
};

// NotFound when the interface or that VF of it does not exist.
absl::StatusOr<VfSettings> ReadVfSettings(const std::string& pf_interface, int vf_index);

}  // namespace everport
