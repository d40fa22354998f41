#include <array>
#include <string_view>

#include "absl/strings/str_cat.h"
#include "backend/config/check.h"
#include "backend/config/config.h"

namespace everport {
namespace {

// In the order of the enum.
constexpr std::array<std::string_view, 9> kNames = {"vf",     "vdpa",        "vhost-vdpa", "tap", "af_packet",
                                                    "af_xdp", "virtio-user", "vdev",       "port"};
static_assert(static_cast<size_t>(UplinkKind::kPort) == kNames.size() - 1);

}  // namespace

std::string_view UplinkKindName(UplinkKind kind) {
  const auto index = static_cast<size_t>(kind);
  return index < kNames.size() ? kNames[index] : "unknown";
}

absl::StatusOr<UplinkKind> ParseUplinkKind(std::string_view text) {
  for (size_t i = 0; i < kNames.size(); ++i) {
    if (kNames[i] == text) return static_cast<UplinkKind>(i);
  }
  std::string names;
  for (const std::string_view name : kNames) absl::StrAppend(&names, names.empty() ? "" : ", ", config::View(name));
  return absl::InvalidArgumentError(
      absl::StrCat(config::Quote(config::View(text)), " is not an uplink kind; use one of ", names));
}

std::string UplinkAside(std::string_view kind, std::string_view device, std::string_view said) {
  const std::string object = absl::StrCat(config::View(kind), " ", config::View(device));
  if (said.substr(0, object.size()) == object) return "";
  if (said.find(device) != std::string_view::npos) return absl::StrCat(" (", config::View(kind), ")");
  return absl::StrCat(" (", object, ")");
}

}  // namespace everport
