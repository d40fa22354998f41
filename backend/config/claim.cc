#include "backend/config/claim.h"

#include <algorithm>
#include <filesystem>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "backend/config/check.h"

namespace everport::config {
namespace {

Claim Interface(absl::string_view name, bool listens) {
  return {absl::StrCat("network interface ", Quote(name)), listens};
}

Claim Device(absl::string_view name) {
  return {absl::StrCat("device ", Quote(name))};
}

bool StartsWithAny(absl::string_view text, std::initializer_list<absl::string_view> prefixes) {
  return std::any_of(prefixes.begin(), prefixes.end(),
                     [&](absl::string_view prefix) { return absl::StartsWith(text, prefix); });
}

// DPDK's drivers whose iface= is a tap that they make, by their names and former names.
bool MakesItsInterface(absl::string_view vdev) {
  return StartsWithAny(vdev, {"net_tap", "eth_tap", "net_tun", "net_virtio_user", "virtio_user"});
}

// iface= of net_vhost is a socket's path, and the arguments of others name what may be shared (/dev/vhost-net, a
// memif's socket).
void ClaimArgument(absl::string_view vdev, absl::string_view key, absl::string_view value, std::vector<Claim>& claims) {
  const std::string path = absl::StartsWith(value, "/") ? NormalNode(std::string(value)) : "";
  if (StartsWithAny(path, {"/dev/vhost-vdpa", "/dev/vduse/"})) {
    claims.push_back(Device(path));
  } else if (!path.empty() || value.empty()) {
    return;
  } else if (key == "iface") {
    claims.push_back(Interface(value, !MakesItsInterface(vdev)));
  } else if (StartsWithAny(key, {"rx_iface", "tx_iface"}) || key == "remote") {  // net_pcap, net_tap
    claims.push_back(Interface(value, true));
  }
}

// net_bonding and net_failsafe work on other devices, named by their addresses.
void ClaimAddresses(absl::string_view argument, std::vector<Claim>& claims) {
  for (const absl::string_view part : absl::StrSplit(argument, absl::ByAnyChar("=()[] "), absl::SkipEmpty())) {
    if (const std::string address = NormalPciAddress(std::string(part)); !address.empty())
      claims.push_back(Device(address));
  }
}

std::vector<Claim> ClaimsOfVdev(const std::string& vdev) {
  const std::vector<absl::string_view> parts = absl::StrSplit(vdev, ',');
  const std::string address = NormalPciAddress(std::string(parts[0]));
  std::vector<Claim> claims = {address.empty() ? Claim{absl::StrCat("vdev ", Quote(parts[0]))} : Device(address)};
  for (size_t i = 1; i < parts.size(); ++i) {
    const std::pair<absl::string_view, absl::string_view> argument = absl::StrSplit(parts[i], absl::MaxSplits('=', 1));
    ClaimArgument(parts[0], argument.first, argument.second, claims);
    ClaimAddresses(parts[i], claims);
  }
  return claims;
}

}  // namespace

std::string NormalPciAddress(const std::string& text) {
  std::string address = absl::AsciiStrToLower(absl::StripPrefix(text, "pci:"));
  if (std::count(address.begin(), address.end(), ':') == 1) address.insert(0, "0000:");
  while (address.find(':') > 4 && address[0] == '0') address.erase(0, 1);
  return ValidPciAddress(address) ? address : "";
}

std::string PciAddressOf(const UplinkConfig& uplink) {
  if (uplink.kind != UplinkKind::kVf && uplink.kind != UplinkKind::kVdpa) return "";
  return NormalPciAddress(uplink.device.substr(0, uplink.device.find(',')));  // behind it are a vdpa's arguments
}

std::string NormalNode(const std::string& path) {
  return std::filesystem::path(path).lexically_normal().string();
}

std::vector<Claim> ClaimsOf(const UplinkConfig& uplink) {
  switch (uplink.kind) {
    case UplinkKind::kTap:
    case UplinkKind::kVirtioUser:
      return {Interface(uplink.device, false)};
    case UplinkKind::kAfPacket:
    case UplinkKind::kAfXdp:
      return {Interface(uplink.device, true)};
    case UplinkKind::kVdev:
      return ClaimsOfVdev(uplink.device);
    case UplinkKind::kPort:
      return {};
    case UplinkKind::kVf:
    case UplinkKind::kVdpa: {  // the same device by another driver
      const std::string address = PciAddressOf(uplink);
      return {Device(address.empty() ? uplink.device.substr(0, uplink.device.find(',')) : address)};
    }
    case UplinkKind::kVhostVdpa:
      return {Device(NormalNode(uplink.device))};
  }
  return {};
}

}  // namespace everport::config
