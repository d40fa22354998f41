#pragma once

// The rules of a configuration, and how a breach of one is worded; shared by the TOML file, the JSON body and
// CheckPort. For everport_config, and for who makes ports by its rules. Pure; any thread.

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "backend/base/unix_address.h"
#include "backend/config/config.h"

namespace everport::config {

// Debian builds Abseil with a string_view type of its own, which std's does not convert to.
inline absl::string_view View(std::string_view text) {
  return absl::string_view(text.data(), text.size());
}

// Inclusive ranges.
template <typename T>
struct Range {
  T min, max;
};
inline constexpr Range<uint16_t> kQueuePairs{1, 16};
inline constexpr Range<uint16_t> kMtu{68, 9216};  // bytes
inline constexpr Range<uint32_t> kMaxSleepUs{0, 1'000'000};
inline constexpr Range<uint32_t> kFailbackDelayMs{0, UINT32_MAX};
inline constexpr Range<unsigned> kCpu{0, 8191};                  // Linux's largest NR_CPUS
inline constexpr size_t kMaxSocketPath = UnixAddress::kMaxPath;  // bytes

// A rule that was broken: where, and "cause; mend". key is relative to the port ("uplink[0].device").
struct Problem {
  std::string key;
  std::string text;
  absl::StatusCode code = absl::StatusCode::kInvalidArgument;
};

// The rules that `port` breaks by itself, at most one for each key. Fills in what may be left out, and writes the MAC
// in lower case.
// contracts: nullptr: not known here, and nothing is said of the contract's name and limits.
std::vector<Problem> FindProblems(PortConfig& port, const ContractSet* contracts);

// The rules that ports break together; `port` is the index of the one at fault. Wires are looked at only when every
// port has a name of its own.
// refer(i, key) words a reference to another port's key: "port[0] (line 3)".
struct SetProblem {
  size_t port;
  Problem problem;
};
using Refer = std::function<std::string(size_t port, absl::string_view key)>;
std::vector<SetProblem> FindSetProblems(const std::vector<PortConfig>& ports, UnknownPeer unknown_peer,
                                        const Refer& refer);

// "vm 1" in quotes, with what is not printable escaped and long texts cut.
std::string Quote(absl::string_view text);
// A port's or daemon's name: [A-Za-z0-9][A-Za-z0-9_.-]{0,62}. The mend for one that is not.
bool ValidName(absl::string_view name);
inline constexpr absl::string_view kNameMend =
    "use 1 to 63 letters, digits, '_', '.' and '-', beginning with a letter or digit";
// As the kernel writes it, and DPDK after it: "0000:3b:02.1".
bool ValidPciAddress(absl::string_view address);
// Empty if `path` will do as a unix socket's; else "cause; mend".
std::string SocketPathFault(absl::string_view path);
// Empty if `path` is absolute and can be a file's; else "cause; mend".
std::string AbsolutePathFault(absl::string_view path);
// Of `postcopy` in a port, where the daemon goes without a keeper.
inline constexpr absl::string_view kPostcopyNeedsKeeper =
    "needs the keeper, which tells the daemon when all of the guest's memory is here; set keeper = true in [daemon], "
    "or remove the key";
// "0 is out of range; use 1 to 16"
std::string RangeFault(absl::string_view value, int64_t min, int64_t max);

// 52:54:00 (locally administered, unicast) and the 24 bits of FNV-1a over the name, 32 bit, xor-folded.
// Stable: the same name has the same address on every host and in every version.
std::string DefaultMac(absl::string_view port_name);

}  // namespace everport::config
