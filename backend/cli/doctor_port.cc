// What doctor looks at around a port: the folder and the socket, and what its uplinks stand on.
#include <algorithm>
#include <filesystem>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "backend/cli/doctor.h"
#include "backend/config/claim.h"
#include "backend/host/pci_device.h"
#include "backend/host/vhost_vdpa_node.h"

namespace everport::cli {
namespace {

constexpr uint32_t kInterfaceUp = 0x1;  // IFF_UP, linux/if.h

// Whether credentials have these permissions (an rwx mask, such as 5 for r-x) on a file.
bool May(const Credentials& who, const struct stat& st, unsigned wanted) {
  if (who.uid == 0) return true;
  unsigned shift = 0;
  if (who.uid == st.st_uid) {
    shift = 6;
  } else if (std::find(who.gids.begin(), who.gids.end(), st.st_gid) != who.gids.end()) {
    shift = 3;
  }
  return (st.st_mode >> shift & wanted) == wanted;
}

// Who connects to guests' sockets: the keeper, or the daemon where there is none.
struct Connector {
  std::string name;
  std::optional<Credentials> credentials;
};
Connector FindConnector(const HostRoot& root) {
  for (const char* name : {"everport-keeper", "everportd"}) {
    if (auto credentials = CredentialsOf(root, name)) return {name, credentials};
  }
  return {};
}

bool ExamineFolder(const DoctorFacts& facts, const std::string& object, const std::string& folder,
                   std::vector<Finding>& findings) {
  const auto st = facts.root.Stat(folder);
  if (!st || !S_ISDIR(st->st_mode)) {
    findings.push_back(
        {Level::kFail, object,
         absl::StrCat("socket folder ", folder, " is missing; run: install -d -g everport -m 0770 ", folder)});
    return false;
  }
  if (const Connector who = FindConnector(facts.root); who.credentials && !May(*who.credentials, *st, 5)) {
    findings.push_back({Level::kFail, object,
                        absl::StrCat(who.name, " may not look into ", folder, "; run: chgrp everport ", folder,
                                     " && chmod g+rx ", folder)});
    return false;
  }
  // With the sticky bit others cannot replace a socket, but still make one where none is yet.
  if (st->st_mode & S_IWOTH) {
    findings.push_back(
        {Level::kWarn, object, absl::StrCat("any user may put a socket into ", folder, "; run: chmod o-w ", folder)});
  }
  return true;
}

uint32_t InterfaceFlags(const HostRoot& root, const std::string& device) {
  uint32_t flags = 0;
  const std::string text = root.Read(absl::StrCat("/sys/class/net/", device, "/flags")).value_or("");
  return absl::SimpleHexAtoi(text, &flags) ? flags : 0;
}

void ExamineInterface(const HostRoot& root, const std::string& object, const std::string& device,
                      std::vector<Finding>& findings) {
  if (!root.Exists("/sys/class/net/" + device)) {
    findings.push_back({Level::kFail, object,
                        absl::StrCat("network interface ", device, " is missing; `ip link` lists those there are")});
  } else if (!(InterfaceFlags(root, device) & kInterfaceUp)) {
    findings.push_back({Level::kWarn, object, absl::StrCat(device, " is down; run: ip link set ", device, " up")});
  } else {
    findings.push_back({Level::kOk, object, absl::StrCat(device, " is up")});
  }
}

uint32_t NumberIn(const HostRoot& root, const std::string& path) {
  uint32_t number = 0;
  const std::string text = root.Read(path).value_or("");
  return absl::SimpleAtoi(text, &number) ? number : 0;
}

// The other end of a veth: its name, "" if it is in another network namespace. nullopt: the interface is no veth, which
// is a device that names another one's index as its own link, and stands on none.
std::optional<std::string> VethPeer(const HostRoot& root, const std::string& device) {
  const std::string all = "/sys/class/net/", base = all + device;
  const uint32_t link = NumberIn(root, base + "/iflink");
  if (link == 0 || link == NumberIn(root, base + "/ifindex")) return std::nullopt;
  for (const std::string& file : root.List(base)) {
    if (absl::StartsWith(file, "lower_")) return std::nullopt;
  }
  for (const std::string& name : root.List(all)) {
    const bool points_back = NumberIn(root, all + name + "/iflink") == NumberIn(root, base + "/ifindex");
    if (points_back && NumberIn(root, all + name + "/ifindex") == link) return name;
  }
  return "";
}

// A sender on this host leaves checksums to its end of the veth, which does nothing about them; DPDK's driver does not
// look at what the kernel says of that, and the guest drops such frames.
void ExamineVeth(const DoctorFacts& facts, const std::string& object, const std::string& device,
                 std::vector<Finding>& findings) {
  const auto peer = VethPeer(facts.root, device);
  if (!peer) return;
  if (!peer->empty() && facts.leaves_checksums) {
    if (const auto leaves = facts.leaves_checksums(*peer); leaves.ok() && !*leaves) return;
  }
  const bool here = !peer->empty();
  findings.push_back({Level::kWarn, object,
                      absl::StrCat(device, " is a veth: TCP and UDP of a program on this host ",
                                   here ? absl::StrCat("that sends through ", *peer) : "behind it",
                                   " reach the guest with unfinished checksums and are lost, though ping works; run: ",
                                   here ? absl::StrCat("ethtool -K ", *peer, " tx off")
                                        : "ethtool -K IF tx off for its other end, in that network namespace",
                                   "; or use kind = \"tap\"")});
}

void ExamineBridge(const HostRoot& root, const std::string& object, const UplinkConfig& uplink,
                   std::vector<Finding>& findings) {
  const std::string& bridge = uplink.bridge;
  const std::string base = "/sys/class/net/";
  if (!root.Exists(base + bridge)) {
    findings.push_back({Level::kFail, object,
                        absl::StrCat("bridge ", bridge, " is missing; run: ip link add ", bridge,
                                     " type bridge && ip link set ", bridge, " up")});
  } else if (!root.Exists(base + bridge + "/bridge")) {
    findings.push_back({Level::kFail, object, absl::StrCat(bridge, " is not a bridge; name one in bridge =")});
  } else if (!(InterfaceFlags(root, bridge) & kInterfaceUp)) {
    findings.push_back(
        {Level::kWarn, object, absl::StrCat("bridge ", bridge, " is down; run: ip link set ", bridge, " up")});
  } else {
    findings.push_back({Level::kOk, object, absl::StrCat("bridge ", bridge, " is up")});
  }
}

void ExamineTap(const HostRoot& root, const std::string& object, const UplinkConfig& uplink,
                std::vector<Finding>& findings) {
  const std::string base = "/sys/class/net/" + uplink.device;
  if (!uplink.bridge.empty()) ExamineBridge(root, object, uplink, findings);
  if (!root.Exists(base)) return;  // the daemon makes it
  if (!root.Exists(base + "/tun_flags")) {
    findings.push_back({Level::kFail, object,
                        absl::StrCat(uplink.device, " is there but is not a tap; choose another name in device =")});
    return;
  }
  if (uplink.bridge.empty() || !root.Exists("/sys/class/net/" + uplink.bridge)) return;
  // The daemon looks when it opens the tap, and does not notice when it is taken out later.
  const std::string master = root.LinkName(base + "/master");
  if (master != uplink.bridge) {
    findings.push_back(
        {Level::kFail, object,
         absl::StrCat("tap ", uplink.device, " is in ", master.empty() ? "no bridge" : master, ", not in ",
                      uplink.bridge, ", so the guest's packets go elsewhere or nowhere; run: ip link set ",
                      uplink.device, " master ", uplink.bridge)});
  }
}

// Whether everportd, if it runs, may read and write a device's node.
bool DaemonMay(const HostRoot& root, const std::string& node) {
  const auto daemon = CredentialsOf(root, "everportd");
  const auto st = root.Stat(node);
  return !daemon || !st || May(*daemon, *st, 6);
}

// Whether there is something wrong with VFIO's file.
bool ExamineVfioGroup(const HostRoot& root, const std::string& object, const PciDevice& device,
                      std::vector<Finding>& findings) {
  const std::string group = VfioGroupFile(device);
  if (group.empty() || DaemonMay(root, group)) return false;
  findings.push_back({Level::kFail, object,
                      absl::StrCat("everportd may not open ", group, "; run: chown :everport ", group,
                                   " && chmod g+rw ", group, ", best by a udev rule")});
  return true;
}

void ExamineVf(const HostRoot& root, const std::string& object, const UplinkConfig& uplink,
               std::vector<Finding>& findings) {
  const auto device = ReadPciDevice(root.prefix(), uplink.device);
  const absl::Status fit = device.ok() ? CheckVf(*device) : device.status();
  if (!fit.ok()) {
    findings.push_back({Level::kFail, object, std::string(fit.message())});
    return;
  }
  const absl::Status driver = CheckVfDriver(*device);
  if (!driver.ok() && uplink.bind) {
    findings.push_back({Level::kOk, object,
                        absl::StrCat(device->address, " has ", device->driver.empty() ? "no driver" : device->driver,
                                     "; everportd binds it to vfio-pci when it opens it")});
  } else if (!driver.ok()) {
    findings.push_back({Level::kFail, object, std::string(driver.message())});
  } else if (!ExamineVfioGroup(root, object, *device, findings)) {
    findings.push_back(
        {Level::kOk, object, absl::StrCat(device->address, " is a VF of ", device->pf, ", bound to ", device->driver)});
  }
}

void ExamineVdpa(const HostRoot& root, const std::string& object, const UplinkConfig& uplink,
                 std::vector<Finding>& findings) {
  const std::string address = config::PciAddressOf(uplink);
  if (address.empty()) return;  // DPDK alone knows
  const auto device = ReadPciDevice(root.prefix(), address);
  if (const absl::Status fit = device.ok() ? CheckVdpa(*device) : device.status(); !fit.ok()) {
    findings.push_back({Level::kFail, object, std::string(fit.message())});
  } else if (!ExamineVfioGroup(root, object, *device, findings)) {
    findings.push_back({Level::kOk, object, absl::StrCat(address, " is there, bound to ", device->driver)});
  }
}

void ExamineVhostVdpa(const HostRoot& root, const std::string& object, const std::string& node,
                      std::vector<Finding>& findings) {
  const absl::Status status = CheckVhostVdpaNode(root.prefix(), node);
  if (!status.ok()) {
    findings.push_back({Level::kFail, object, std::string(status.message())});
  } else if (!DaemonMay(root, node)) {
    findings.push_back({Level::kFail, object,
                        absl::StrCat("everportd may not open ", node, "; run: chown :everport ", node,
                                     " && chmod g+rw ", node, ", best by a udev rule")});
  } else {
    findings.push_back({Level::kOk, object, absl::StrCat(node, " is there")});
  }
}

// Whether the device itself is there: then what is wrong with it is so, whatever the daemon says.
bool SeenFromHere(const HostRoot& root, const UplinkConfig& uplink) {
  const std::string address = config::PciAddressOf(uplink);
  return root.Exists("/sys/class/net/" + uplink.device) ||
         (!address.empty() && root.Exists("/sys/bus/pci/devices/" + address));
}

// What everportd says of an uplink comes before what is seen from here since `before`, which may only follow from it;
// unless that says the same.
void TellDaemonsError(const std::string& object, const std::string& error, size_t before,
                      std::vector<Finding>& findings) {
  const auto first = findings.begin() + static_cast<ptrdiff_t>(before);
  const bool same = std::any_of(first, findings.end(), [&](const Finding& finding) {
    return finding.level != Level::kOk && absl::StrContains(error, finding.text);
  });
  if (!error.empty() && !same) findings.insert(first, {Level::kWarn, object, absl::StrCat("everportd: ", error)});
}

void ExamineUplink(const DoctorFacts& facts, const std::string& object, const UplinkConfig& uplink,
                   std::vector<Finding>& findings) {
  const HostRoot& root = facts.root;
  switch (uplink.kind) {
    case UplinkKind::kTap:
    case UplinkKind::kVirtioUser:
      return ExamineTap(root, object, uplink, findings);
    case UplinkKind::kAfPacket:
      ExamineVeth(facts, object, uplink.device, findings);
      [[fallthrough]];
    case UplinkKind::kAfXdp:
      return ExamineInterface(root, object, uplink.device, findings);
    case UplinkKind::kVf:
      return ExamineVf(root, object, uplink, findings);
    case UplinkKind::kVdpa:
      return ExamineVdpa(root, object, uplink, findings);
    case UplinkKind::kVhostVdpa:
      return ExamineVhostVdpa(root, object, uplink.device, findings);
    case UplinkKind::kVdev:
    case UplinkKind::kPort:
      return;  // nothing on the host to look at
  }
}

}  // namespace

void ExamineSocket(const DoctorFacts& facts, const DoctorPort& port, std::vector<Finding>& findings) {
  const std::string object = absl::StrCat("port ", port.config.name);
  const std::string& socket = port.config.socket;
  if (!ExamineFolder(facts, object, std::filesystem::path(socket).parent_path().string(), findings)) return;
  const auto st = facts.root.Stat(socket);
  if (!st) {
    findings.push_back({Level::kWarn, object,
                        absl::StrCat("no QEMU has made ", socket,
                                     " yet; start the guest with -chardev socket,id=c0,path=", socket, ",server=on")});
    return;
  }
  if (!S_ISSOCK(st->st_mode)) {
    findings.push_back({Level::kFail, object, absl::StrCat(socket, " is no socket; remove it")});
    return;
  }
  if (const Connector who = FindConnector(facts.root); who.credentials && !May(*who.credentials, *st, 2)) {
    findings.push_back({Level::kFail, object,
                        absl::StrCat(who.name, " may not connect to ", socket,
                                     "; run QEMU in the group everport, or: chgrp "
                                     "everport ",
                                     socket, " && chmod g+w ", socket)});
    return;
  }
  const auto listening = ListeningSockets(facts.root);
  // A daemon that is connected knows better than a list of this network namespace.
  if (std::find(listening.begin(), listening.end(), socket) == listening.end() && port.state != "connected" &&
      port.state != "running") {
    findings.push_back(
        {Level::kWarn, object,
         absl::StrCat("nobody listens on ", socket, ", it is left over from a QEMU that ended; start the guest")});
    return;
  }
  findings.push_back({Level::kOk, object, absl::StrCat("QEMU listens on ", socket)});
}

void ExaminePath(const DoctorFacts&, const DoctorPort& port, std::vector<Finding>& findings) {
  const bool guest = port.state == "connected" || port.state == "running";
  const bool all_failed =
      !port.uplink_errors.empty() && std::none_of(port.uplink_errors.begin(), port.uplink_errors.end(),
                                                  [](const std::string& error) { return error.empty(); });
  if (!guest || port.has_path || !all_failed) return;
  findings.push_back({Level::kFail, absl::StrCat("port ", port.config.name),
                      "no uplink works: the guest has no network; mend one of its uplinks, as said of each below"});
}

namespace {

// Offload devices do not tell which pages they write, so none serves a guest that is being migrated.
void ExamineMigration(const DoctorPort& port, std::vector<Finding>& findings) {
  const auto offload = [](const UplinkConfig& uplink) {
    return uplink.kind == UplinkKind::kVhostVdpa || uplink.kind == UplinkKind::kVdpa;
  };
  const auto& uplinks = port.config.uplinks;
  if (uplinks.empty() || !std::all_of(uplinks.begin(), uplinks.end(), offload)) return;
  findings.push_back(
      {Level::kWarn, absl::StrCat("port ", port.config.name),
       "has offload devices alone: its guest has no network while it is migrated; add an uplink of another "
       "kind behind them, a tap for one"});
}

}  // namespace

void ExamineUplinks(const DoctorFacts& facts, const DoctorPort& port, std::vector<Finding>& findings) {
  ExamineMigration(port, findings);
  for (size_t i = 0; i < port.config.uplinks.size(); ++i) {
    const UplinkConfig& uplink = port.config.uplinks[i];
    const std::string object = absl::StrCat("port ", port.config.name, " uplink ", i);
    const size_t before = findings.size();
    ExamineUplink(facts, object, uplink, findings);
    const bool works = !port.state.empty() && i < port.uplink_errors.size() && port.uplink_errors[i].empty() &&
                       !SeenFromHere(facts.root, uplink);
    for (size_t f = before; works && f < findings.size(); ++f) {
      if (findings[f].level != Level::kFail) continue;
      findings[f] = {
          Level::kWarn, object,
          "works, says everportd, but its device cannot be seen from here; if everportd is in another network "
          "namespace, run doctor in that one"};
    }
    if (i < port.uplink_errors.size()) TellDaemonsError(object, port.uplink_errors[i], before, findings);
  }
}

}  // namespace everport::cli
