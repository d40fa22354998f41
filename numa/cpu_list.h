#pragma once

// CPU lists as Linux writes them: "0-3,8" (Documentation/admin-guide/cputopology.rst). Pure; any thread.

#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"

namespace everport {

inline constexpr unsigned kMaxCpu = 8191;  // Linux's largest NR_CPUS, less one

// Ascending and distinct. An empty or blank text is an empty list. InvalidArgument names the part that is wrong.
absl::StatusOr<std::vector<unsigned>> ParseCpuList(std::string_view text);
// cpus in any order; "" if there are none.
std::string FormatCpuList(std::vector<unsigned> cpus);

}  // namespace everport
