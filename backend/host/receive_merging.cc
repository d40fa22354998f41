#include "backend/host/receive_merging.h"

#include <linux/ethtool.h>
#include <linux/sockios.h>
#include <net/if.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <string_view>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "backend/base/unique_fd.h"

namespace everport {
namespace {

// The kernel's names, and those of ethtool -K.
struct Feature {
  std::string_view name;
  const char* short_name;
};
constexpr Feature kMerging[] = {{"rx-gro", "gro"}, {"rx-lro", "lro"}, {"rx-gro-hw", "rx-gro-hw"}};

// One of ethtool's commands, a struct ethtool_… that begins with its number. Returns 0 or an errno.
int Ethtool(const std::string& interface, void* command) {
  const UniqueFd fd(socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  if (!fd.valid()) return errno;
  ifreq request{};
  std::strncpy(request.ifr_name, interface.c_str(), IFNAMSIZ - 1);
  request.ifr_data = static_cast<char*>(command);
  return ioctl(fd.get(), SIOCETHTOOL, &request) < 0 ? errno : 0;
}

// One with an array of T behind it.
template <typename Command, typename T>
struct Sized {
  explicit Sized(size_t count) : bytes(sizeof(Command) + count * sizeof(T)) {}
  Command& head() { return *reinterpret_cast<Command*>(bytes.data()); }
  T* array() { return reinterpret_cast<T*>(bytes.data() + sizeof(Command)); }
  std::vector<uint8_t> bytes;
};

// The kernel's features, by their bits. Empty with an errno.
std::vector<std::string> FeatureNames(const std::string& interface, int& error) {
  Sized<ethtool_sset_info, uint32_t> count(1);
  count.head().cmd = ETHTOOL_GSSET_INFO;
  count.head().sset_mask = 1ull << ETH_SS_FEATURES;
  error = Ethtool(interface, count.bytes.data());
  if (error != 0) return {};
  Sized<ethtool_gstrings, char[ETH_GSTRING_LEN]> strings(*count.array());
  strings.head().cmd = ETHTOOL_GSTRINGS;
  strings.head().string_set = ETH_SS_FEATURES;
  strings.head().len = *count.array();
  error = Ethtool(interface, strings.bytes.data());
  std::vector<std::string> names;
  for (uint32_t i = 0; error == 0 && i < strings.head().len; ++i) {
    const char* const name = strings.array()[i];
    names.emplace_back(name, strnlen(name, ETH_GSTRING_LEN));
  }
  return names;
}

// Which of the merging features are on; their bits.
std::vector<size_t> MergingBits(const std::string& interface, const std::vector<std::string>& names, int& error) {
  const size_t words = (names.size() + 31) / 32;
  Sized<ethtool_gfeatures, ethtool_get_features_block> now(words);
  now.head().cmd = ETHTOOL_GFEATURES;
  now.head().size = static_cast<uint32_t>(words);
  error = Ethtool(interface, now.bytes.data());
  std::vector<size_t> bits;
  for (const Feature& feature : kMerging) {
    const size_t bit = static_cast<size_t>(std::find(names.begin(), names.end(), feature.name) - names.begin());
    if (error == 0 && bit < names.size() && (now.array()[bit / 32].active >> bit % 32 & 1)) bits.push_back(bit);
  }
  return bits;
}

int SwitchOff(const std::string& interface, const std::vector<size_t>& bits, size_t count) {
  const size_t words = (count + 31) / 32;
  Sized<ethtool_sfeatures, ethtool_set_features_block> change(words);
  change.head().cmd = ETHTOOL_SFEATURES;
  change.head().size = static_cast<uint32_t>(words);
  for (const size_t bit : bits) change.array()[bit / 32].valid |= 1u << bit % 32;
  return Ethtool(interface, change.bytes.data());
}

std::vector<std::string> ShortNames(const std::vector<size_t>& bits, const std::vector<std::string>& names) {
  std::vector<std::string> found;
  for (const size_t bit : bits) {
    for (const Feature& feature : kMerging) {
      if (feature.name == names[bit]) found.emplace_back(feature.short_name);
    }
  }
  return found;
}

}  // namespace

absl::StatusOr<std::vector<std::string>> SwitchMergingOff(const std::string& interface) {
  int error = 0;
  const std::vector<std::string> names = FeatureNames(interface, error);
  const std::vector<size_t> on = error == 0 ? MergingBits(interface, names, error) : std::vector<size_t>{};
  if (error == EOPNOTSUPP) return std::vector<std::string>{};
  if (error == 0 && on.empty()) return std::vector<std::string>{};
  if (error == 0) error = SwitchOff(interface, on, names.size());
  // The kernel says nothing of those that it has not changed.
  int ignored = 0;
  const std::vector<size_t> left = error == 0 ? MergingBits(interface, names, ignored) : on;
  if (error == 0 && left.empty()) return ShortNames(on, names);
  const std::vector<std::string> which =
      left.empty() ? std::vector<std::string>{"gro", "lro"} : ShortNames(left, names);
  return absl::Status(error != 0 ? absl::ErrnoToStatusCode(error) : absl::StatusCode::kUnavailable,
                      absl::StrCat(interface, ": ", absl::StrJoin(which, ", "), " could not be switched off (",
                                   error != 0 ? std::strerror(error) : "its driver keeps it on",
                                   "): received frames that are merged to more than the MTU are lost; run: ethtool -K ",
                                   interface, " ", absl::StrJoin(which, " off "), " off"));
}

absl::StatusOr<bool> LeavesChecksumsUnfinished(const std::string& interface) {
  ethtool_value value{};
  value.cmd = ETHTOOL_GTXCSUM;
  if (const int error = Ethtool(interface, &value); error != 0)
    return absl::ErrnoToStatus(error, absl::StrCat("network interface ", interface, ": tx-checksumming"));
  return value.data != 0;
}

}  // namespace everport
