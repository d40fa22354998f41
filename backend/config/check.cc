#include "backend/config/check.h"

#include <algorithm>

#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "backend/config/claim.h"
#include "migration/feature_contract.h"

namespace everport {
namespace config {
namespace {

using Fault = std::optional<Problem>;

Problem Breach(absl::string_view key, std::string text) {
  return {std::string(key), std::move(text)};
}

bool ValidInterfaceName(absl::string_view name) {
  // dev_valid_name() in Linux net/core/dev.c
  if (name.empty() || name.size() > 15 || name == "." || name == "..") return false;
  return std::all_of(name.begin(), name.end(), [](char c) { return absl::ascii_isgraph(c) && c != '/' && c != ':'; });
}

std::string InterfaceFault(absl::string_view name) {
  if (name.empty()) return "no network interface is named; give the interface's name";
  if (ValidInterfaceName(name)) return "";
  return absl::StrCat(Quote(name),
                      " is not a network interface name; use 1 to 15 printable characters without '/' "
                      "and ':'");
}

// Of another process's socket: the driver waits for the process while it is probed, for ever if it listens, and with it
// every device of the daemon's. Also as a part of another vdev (net_failsafe0,dev(net_virtio_user0,…)).
std::string WaitingVdevFault(absl::string_view vdev) {
  const std::vector<absl::string_view> parts = absl::StrSplit(vdev, absl::ByAnyChar(",()[]"));
  const auto is_virtio_user = [](absl::string_view part) {
    return absl::StartsWith(part, "net_virtio_user") || absl::StartsWith(part, "virtio_user");
  };
  if (std::none_of(parts.begin(), parts.end(), is_virtio_user)) return "";
  for (absl::string_view part : parts) {
    const bool is_path = absl::ConsumePrefix(&part, "path=");
    if (is_path && (part == "/dev/vhost-net" || absl::StartsWith(part, "/dev/vhost-vdpa"))) continue;
    if (!is_path && (!absl::StartsWith(part, "server=") || part == "server=0")) continue;
    return absl::StrCat(Quote(vdev),
                        ": DPDK waits for the process at a vhost-user socket, and all other devices would with it; for "
                        "vhost-net use the kind virtio-user, to reach another process a tap or net_memif0,role=server, "
                        "to reach another guest the kind port");
  }
  return "";
}

std::string VdevFault(absl::string_view vdev) {
  if (vdev.empty()) return "no vdev is given; give a DPDK vdev string, for example net_null0 or net_memif0,role=server";
  if (!std::all_of(vdev.begin(), vdev.end(), [](char c) { return absl::ascii_isprint(c); })) {
    return absl::StrCat(Quote(vdev), " holds characters that are not printable ASCII; take them out");
  }
  const absl::string_view name = vdev.substr(0, vdev.find(','));
  const bool valid = !name.empty() && absl::ascii_isalpha(name[0]) &&
                     std::all_of(name.begin(), name.end(), [](char c) { return absl::ascii_isgraph(c); });
  if (valid) return WaitingVdevFault(vdev);
  return absl::StrCat(Quote(vdev),
                      " is not a DPDK vdev string; write NAME or NAME,KEY=VALUE,…, NAME beginning with "
                      "a letter");
}

std::string PciFault(absl::string_view address) {
  if (address.empty()) return "no PCI device is named; give a VF's address, for example 0000:3b:02.1";
  if (ValidPciAddress(address)) return "";
  return absl::StrCat(Quote(address), " is not a PCI address; write it as 0000:3b:02.1 (`lspci -D` lists them)");
}

std::string NodeFault(absl::string_view path) {
  if (path.empty()) return "no device is named; give its node, for example /dev/vhost-vdpa-0";
  if (absl::StartsWith(path, "/dev/") && absl::StartsWith(NormalNode(std::string(path)), "/dev/")) return "";
  return absl::StrCat(Quote(path),
                      " is not a device node; write it as /dev/vhost-vdpa-0 (`vdpa dev show` lists devices)");
}

// DPDK's name of a device, which need not be a PCI address, and its driver's arguments.
std::string VdpaFault(absl::string_view device) {
  if (!device.empty() && device[0] != ',' && device.find_first_of(" \t\n") == absl::string_view::npos) return "";
  return absl::StrCat(device.empty() ? "no device is named" : absl::StrCat(Quote(device), " is not a device of DPDK's"),
                      "; give the vDPA device's PCI address, for example 0000:3b:02.1");
}

std::string PeerFault(const PortConfig& port, absl::string_view peer) {
  if (peer.empty()) return "no port is named; give the name of the port to wire this one to";
  if (!ValidName(peer)) return absl::StrCat(Quote(peer), " is not a port name; ", kNameMend);
  if (peer == port.name) return "a port cannot be wired to itself; name another port";
  return "";
}

std::string DeviceFault(const PortConfig& port, const UplinkConfig& uplink) {
  switch (uplink.kind) {
    case UplinkKind::kTap:
    case UplinkKind::kAfPacket:
    case UplinkKind::kAfXdp:
    case UplinkKind::kVirtioUser:
      return InterfaceFault(uplink.device);
    case UplinkKind::kVf:
      return PciFault(uplink.device);
    case UplinkKind::kVdev:
      return VdevFault(uplink.device);
    case UplinkKind::kPort:
      return PeerFault(port, uplink.device);
    case UplinkKind::kVhostVdpa:
      return NodeFault(uplink.device);
    case UplinkKind::kVdpa:
      return VdpaFault(uplink.device);
  }
  return "";
}

Fault CheckUplink(const PortConfig& port, size_t index) {
  const UplinkConfig& uplink = port.uplinks[index];
  const auto key = [&](absl::string_view field) { return absl::StrCat("uplink[", index, "].", field); };
  if (std::string fault = DeviceFault(port, uplink); !fault.empty()) return Breach(key("device"), std::move(fault));
  if (!uplink.bridge.empty()) {
    if (uplink.kind != UplinkKind::kTap && uplink.kind != UplinkKind::kVirtioUser) {
      return Breach(key("bridge"), absl::StrCat("only a tap can be put into a bridge, this uplink is ",
                                                View(UplinkKindName(uplink.kind)), "; remove the key"));
    }
    if (std::string fault = InterfaceFault(uplink.bridge); !fault.empty()) return Breach(key("bridge"), fault);
    if (uplink.bridge == uplink.device) {
      return Breach(key("bridge"), "the bridge has the tap's own name; name the bridge");
    }
  }
  if (uplink.bind && uplink.kind != UplinkKind::kVf) {
    return Breach(key("bind"), absl::StrCat("only a vf is bound to vfio-pci, this uplink is ",
                                            View(UplinkKindName(uplink.kind)), "; remove the key"));
  }
  for (size_t other = 0; other < index; ++other) {
    if (port.uplinks[other].kind == uplink.kind && port.uplinks[other].device == uplink.device) {
      return Breach(key("device"),
                    absl::StrCat("the same device as uplink[", other, "]; an uplink is listed once: remove one"));
    }
  }
  return std::nullopt;
}

Fault CheckMac(PortConfig& port) {
  if (port.mac.empty()) port.mac = DefaultMac(port.name);
  uint8_t mac[6];
  if (!ParseMac(port.mac, mac)) {
    return Breach("mac", absl::StrCat(Quote(port.mac), " is not a MAC address; write it as 52:54:00:12:34:56"));
  }
  if (mac[0] & 1) {
    return Breach("mac", absl::StrCat(Quote(port.mac), " is a group address; use a unicast one (first byte even)"));
  }
  port.mac = FormatMac(mac);
  if (port.mac == "00:00:00:00:00:00") {
    return Breach("mac", "all zero is not a station's address; give another, or leave the key out");
  }
  return std::nullopt;
}

Fault CheckContract(const PortConfig& port, const ContractSet& contracts) {
  if (contracts.Find(port.contract).ok()) return std::nullopt;
  return Breach("contract", absl::StrCat(Quote(port.contract), " is not a feature contract; use one of ",
                                         absl::StrJoin(contracts.Names(), ", ")));
}

// A number that has a range of its own, and a most by contract (where that is known).
Fault CheckLimit(absl::string_view key, uint16_t value, Range<uint16_t> range, const FeatureContract* contract,
                 unsigned most) {
  if (value < range.min || value > range.max) return Breach(key, RangeFault(absl::StrCat(value), range.min, range.max));
  if (!contract || value <= most) return std::nullopt;
  return Breach(key, absl::StrCat(value, " is more than contract ", contract->name, " has; use at most ", most,
                                  " or another contract"));
}

// QEMU (to 11 at least) tells memory for the first queue pair alone, and yet awaits where it is from each of them: the
// guest would hang at its arrival. A device behind librte_vhost is given guest memory that nobody fetches pages for.
Fault CheckPostcopy(const PortConfig& port) {
  if (!port.postcopy) return std::nullopt;
  if (port.queue_pairs > 1) {
    return Breach("postcopy", absl::StrCat("QEMU does not bring a guest with ", port.queue_pairs,
                                           " queue pairs by post-copy; use queue_pairs = 1, or remove the key"));
  }
  const bool vdpa = std::any_of(port.uplinks.begin(), port.uplinks.end(),
                                [](const UplinkConfig& uplink) { return uplink.kind == UplinkKind::kVdpa; });
  if (!vdpa) return std::nullopt;
  return Breach("postcopy", "an uplink of kind vdpa cannot wait for pages of guest memory; remove one of the two");
}

Fault CheckName(const PortConfig& port) {
  if (port.name.empty()) return Breach("name", absl::StrCat("no name is given; ", kNameMend));
  if (ValidName(port.name)) return std::nullopt;
  return Breach("name", absl::StrCat(Quote(port.name), " is not a port name; ", kNameMend));
}

Fault CheckSocket(const PortConfig& port) {
  std::string fault = SocketPathFault(port.socket);
  return fault.empty() ? Fault() : Breach("socket", std::move(fault));
}

}  // namespace

std::string Quote(absl::string_view text) {
  constexpr size_t kMost = 120;
  const bool cut = text.size() > kMost;
  return absl::StrCat("\"", absl::Utf8SafeCHexEscape(text.substr(0, kMost)), cut ? "…" : "", "\"");
}

bool ValidName(absl::string_view name) {
  if (name.empty() || name.size() > 63 || !absl::ascii_isalnum(name[0])) return false;
  return std::all_of(name.begin(), name.end(),
                     [](char c) { return absl::ascii_isalnum(c) || c == '_' || c == '.' || c == '-'; });
}

bool ValidPciAddress(absl::string_view address) {
  const std::vector<absl::string_view> parts = absl::StrSplit(address, absl::ByAnyChar(":."));
  const auto hex = [](absl::string_view part, size_t shortest, size_t longest) {
    return part.size() >= shortest && part.size() <= longest &&
           std::all_of(part.begin(), part.end(), [](char c) { return absl::ascii_isxdigit(c); });
  };
  return parts.size() == 4 && hex(parts[0], 4, 8) && hex(parts[1], 2, 2) && hex(parts[2], 2, 2) && parts[2][0] <= '1' &&
         hex(parts[3], 1, 1) && parts[3][0] <= '7' && address.find('.') > address.rfind(':');
}

std::string AbsolutePathFault(absl::string_view path) {
  if (path.empty() || path[0] != '/') return absl::StrCat(Quote(path), " is not an absolute path; begin it with '/'");
  if (path.find('\0') != path.npos) return absl::StrCat(Quote(path), " holds a NUL byte; take it out");
  return "";
}

std::string SocketPathFault(absl::string_view path) {
  if (path.empty()) return "no socket is given; give the path of QEMU's -chardev socket";
  if (path[0] != '/') return absl::StrCat(Quote(path), " is not an absolute path; begin it with '/'");
  if (path.find('\0') != path.npos) return absl::StrCat(Quote(path), " holds a NUL byte; take it out");
  if (path.back() == '/') return absl::StrCat(Quote(path), " names a folder; give the socket's path");
  if (path.size() > kMaxSocketPath) {
    return absl::StrCat(Quote(path), " is ", path.size(), " bytes long; a unix socket's path has at most ",
                        kMaxSocketPath);
  }
  return "";
}

std::string RangeFault(absl::string_view value, int64_t min, int64_t max) {
  return absl::StrCat(value, " is out of range; use ", min, " to ", max);
}

std::vector<Problem> FindProblems(PortConfig& port, const ContractSet* contracts) {
  std::vector<Problem> problems;
  const auto note = [&](Fault fault) {
    if (fault) problems.push_back(*std::move(fault));
  };
  const ContractSet& all = contracts ? *contracts : BuiltInContracts();
  const auto contract = all.Find(port.contract);
  for (UplinkConfig& uplink : port.uplinks) {
    if (uplink.kind == UplinkKind::kVf) absl::AsciiStrToLower(&uplink.device);
  }
  note(CheckName(port));
  note(CheckSocket(port));
  note(CheckMac(port));
  if (contracts) note(CheckContract(port, all));
  const FeatureContract* known = contract.ok() ? &*contract : nullptr;
  note(CheckLimit("queue_pairs", port.queue_pairs, kQueuePairs, known, known ? known->max_queue_pairs : 0));
  note(CheckLimit("mtu", port.mtu, kMtu, known, known ? known->max_mtu : 0));
  note(CheckPostcopy(port));
  if (port.uplinks.empty()) note(Breach("uplink", "there is none; add at least one [[port.uplink]]"));
  for (size_t i = 0; i < port.uplinks.size(); ++i) note(CheckUplink(port, i));
  return problems;
}

}  // namespace config

absl::Status CheckPort(PortConfig& port, const std::string& what, const ContractSet& contracts) {
  const auto problems = config::FindProblems(port, &contracts);
  if (problems.empty()) return absl::OkStatus();
  const config::Problem& first = problems.front();
  return absl::Status(first.code, absl::StrCat(what, ": ", first.key, ": ", first.text));
}

absl::Status CheckContractsKept(const std::vector<PortConfig>& before, const ContractSet& contracts_before,
                                const std::vector<PortConfig>& after, const ContractSet& contracts_after) {
  for (const PortConfig& port : before) {
    const bool keeps_it = std::any_of(after.begin(), after.end(), [&](const PortConfig& other) {
      return other.name == port.name && other.contract == port.contract;
    });
    const auto was = contracts_before.Find(port.contract), is = contracts_after.Find(port.contract);
    if (!keeps_it || !was.ok() || (is.ok() && *was == *is)) continue;
    return absl::FailedPreconditionError(absl::StrCat(
        "contract ", port.contract, " is ", is.ok() ? "another than before" : "gone", ", and port ", port.name,
        " has it, whose guest relies on what it was offered; ",
        is.ok() ? "leave it as it was, and give the changed one a new name" : "put it back, or remove the port first"));
  }
  return absl::OkStatus();
}

}  // namespace everport
