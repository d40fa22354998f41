#include "backend/config/preflight.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <map>
#include <set>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "backend/config/claim.h"
#include "backend/host/pci_device.h"
#include "backend/host/vhost_vdpa_node.h"
#include "numa/topology.h"

namespace everport {
namespace {

namespace fs = std::filesystem;

class Inspection {
 public:
  Inspection(const Config& config, const PreflightHost& host) : config_(config), host_(host) {}

  void CheckFolder(const char* key, const std::string& path);
  void CheckSocketFolders();
  void CheckPollers();
  void CheckMemory();
  void CheckUplinks();
  std::vector<std::string> TakeMissing() { return std::move(missing_); }

 private:
  bool Exists(const std::string& path) const { return ::access((host_.root + path).c_str(), F_OK) == 0; }
  template <typename... Parts>
  void Miss(const Parts&... parts) {
    missing_.push_back(absl::StrCat(parts...));
  }
  void CheckUplink(const std::string& object, const UplinkConfig& uplink);
  void CheckVfUplink(const std::string& object, const UplinkConfig& uplink);
  void CheckVdpaUplink(const std::string& object, const UplinkConfig& uplink);
  void CheckVhostVdpaUplink(const std::string& object, const std::string& node);

  const Config& config_;
  const PreflightHost& host_;
  std::vector<std::string> missing_;
  std::map<dev_t, std::string> vdpa_nodes_;  // and whose they are
};

// A folder that the programs make where it is not there yet: then the nearest one above it counts.
void Inspection::CheckFolder(const char* key, const std::string& path) {
  fs::path nearest = path;
  while (nearest.has_relative_path() && !Exists(nearest.string())) nearest = nearest.parent_path();
  const std::string found = host_.root + nearest.string();
  struct stat st {};
  if (::stat(found.c_str(), &st) == 0 && !S_ISDIR(st.st_mode)) {
    Miss("daemon.", key, ": ", nearest.string(), " is not a folder; move it away, or name another");
  } else if (::faccessat(AT_FDCWD, found.c_str(), W_OK | X_OK, AT_EACCESS) != 0) {
    Miss("daemon.", key, ": ", nearest.string(), " may not be written (", std::strerror(errno),
         "); run as root, or name another folder");
  }
}

void Inspection::CheckSocketFolders() {
  std::set<std::string> seen;
  for (const PortConfig& port : config_.ports) {
    const std::string folder = fs::path(port.socket).parent_path().string();
    if (!seen.insert(folder).second || fs::is_directory(host_.root + folder)) continue;
    Miss("port ", port.name, ": socket folder ", folder, " is missing; run: install -d -g everport -m 0770 ", folder);
  }
}

void Inspection::CheckPollers() {
  const auto topology = ReadTopology(host_.root);
  if (!topology.ok()) return Miss(topology.status().message());
  const std::vector<unsigned>& cpus = config_.daemon.poller_cpus;
  if (cpus.empty()) {
    if (const auto pollers = AutoPollers(*topology, host_.allowed_cpus); !pollers.ok())
      Miss(pollers.status().message());
  }
  for (const unsigned cpu : cpus) {  // one by one: all that are wrong are told
    const auto poller = PinnedPollers(*topology, host_.allowed_cpus, {cpu});
    if (!poller.ok()) Miss("daemon.", poller.status().message());
  }
}

// "auto" does with what there is.
void Inspection::CheckMemory() {
  if (config_.daemon.memory != DaemonConfig::Memory::kHugepages) return;
  std::ifstream meminfo(host_.root + "/proc/meminfo");
  for (std::string line; std::getline(meminfo, line);) {
    unsigned long pages = 0;
    if (std::sscanf(line.c_str(), "HugePages_Total: %lu", &pages) == 1 && pages > 0) return;
  }
  Miss("daemon.memory: there are no hugepages; run: echo 512 > /proc/sys/vm/nr_hugepages, or write memory = \"auto\"");
}

void Inspection::CheckVfUplink(const std::string& object, const UplinkConfig& uplink) {
  const auto device = ReadPciDevice(host_.root, uplink.device);
  absl::Status status = device.ok() ? CheckVf(*device) : device.status();
  if (status.ok() && !uplink.bind) status = CheckVfDriver(*device);
  if (status.ok()) status = CheckVfioAccess(host_.root, *device);
  if (!status.ok()) Miss(object, ": ", std::string(status.message()));
}

// A device that is on no PCI bus is DPDK's to find.
void Inspection::CheckVdpaUplink(const std::string& object, const UplinkConfig& uplink) {
  const std::string address = config::PciAddressOf(uplink);
  if (address.empty()) return;
  const auto device = ReadPciDevice(host_.root, address);
  absl::Status status = device.ok() ? CheckVdpa(*device) : device.status();
  if (status.ok()) status = CheckVfioAccess(host_.root, *device);
  if (!status.ok()) Miss(object, ": ", std::string(status.message()));
}

// What the device can do is only known once it is open, which a running daemon may have done: it tells then.
void Inspection::CheckVhostVdpaUplink(const std::string& object, const std::string& node) {
  if (const absl::Status status = CheckVhostVdpaNode(host_.root, node); !status.ok())
    return Miss(object, ": ", std::string(status.message()));
  struct stat st {};
  if (::stat((host_.root + node).c_str(), &st) == 0) {  // a symbolic link is another name for it
    const auto [first, fresh] = vdpa_nodes_.try_emplace(st.st_rdev, absl::StrCat(object, " (", node, ")"));
    if (!fresh) {
      return Miss(object, ": ", node, " is the device of ", first->second,
                  "; an uplink belongs to one port: name another device");
    }
  }
  if (::faccessat(AT_FDCWD, (host_.root + node).c_str(), R_OK | W_OK, AT_EACCESS) == 0) return;
  Miss(object, ": ", node, " may not be opened (", std::strerror(errno), "); run: chown :everport ", node,
       " && chmod g+rw ", node, ", best by a udev rule");
}

void Inspection::CheckUplink(const std::string& object, const UplinkConfig& uplink) {
  const std::string net = "/sys/class/net/";
  switch (uplink.kind) {
    case UplinkKind::kVf:
      return CheckVfUplink(object, uplink);
    case UplinkKind::kVirtioUser:
      if (!Exists("/dev/vhost-net")) Miss(object, ": /dev/vhost-net is missing; run: modprobe vhost_net");
      [[fallthrough]];
    case UplinkKind::kTap:
      if (!Exists("/dev/net/tun")) Miss(object, ": /dev/net/tun is missing; run: modprobe tun");
      if (Exists(net + uplink.device) && !Exists(net + uplink.device + "/tun_flags")) {
        Miss(object, ": ", uplink.device, " is there but is not a tap; choose another name");
      }
      if (uplink.bridge.empty()) return;
      if (!Exists(net + uplink.bridge)) {
        Miss(object, ": bridge ", uplink.bridge, " is missing; run: ip link add ", uplink.bridge,
             " type bridge && ip link set ", uplink.bridge, " up");
      } else if (!Exists(net + uplink.bridge + "/bridge")) {
        Miss(object, ": ", uplink.bridge, " is not a bridge; name one, or leave bridge out");
      }
      return;
    case UplinkKind::kAfPacket:
    case UplinkKind::kAfXdp:
      if (Exists(net + uplink.device)) return;
      return Miss(object, ": network interface ", uplink.device, " is missing; `ip link` lists those there are");
    case UplinkKind::kVhostVdpa:
      return CheckVhostVdpaUplink(object, uplink.device);
    case UplinkKind::kVdpa:
      return CheckVdpaUplink(object, uplink);
    case UplinkKind::kVdev:
    case UplinkKind::kPort:
      return;  // DPDK alone knows, or nothing outside the daemon
  }
}

void Inspection::CheckUplinks() {
  for (const PortConfig& port : config_.ports) {
    for (size_t i = 0; i < port.uplinks.size(); ++i) {
      CheckUplink(absl::StrCat("port ", port.name, ": uplink ", i), port.uplinks[i]);
    }
  }
}

}  // namespace

std::vector<std::string> Preflight(const Config& config, PreflightFor program, const PreflightHost& host) {
  Inspection inspection(config, host);
  inspection.CheckFolder("run_dir", config.daemon.run_dir);
  if (program == PreflightFor::kDaemon) {
    inspection.CheckFolder("state_dir", config.daemon.state_dir);
    inspection.CheckPollers();
    inspection.CheckMemory();
  }
  inspection.CheckSocketFolders();
  if (program == PreflightFor::kDaemon) inspection.CheckUplinks();
  return inspection.TakeMissing();
}

int ReportPreflight(const std::string& program, const std::string& file, const Config& config,
                    const std::vector<std::string>& missing) {
  for (const std::string& line : missing) std::fprintf(stderr, "%s: %s\n", program.c_str(), line.c_str());
  const size_t ports = config.ports.size();
  std::printf("%s: %zu port%s, no errors in the file; %s\n", file.c_str(), ports, ports == 1 ? "" : "s",
              missing.empty() ? "this host has what they need" : "this host lacks something");
  return missing.empty() ? 0 : 1;
}

int ReportRefused(const std::string& program, const absl::Status& refused) {
  constexpr int kExitConfig = 78;  // sysexits.h, EX_CONFIG: the units do not restart after it
  for (const absl::string_view line : absl::StrSplit(refused.message(), '\n')) {
    std::fprintf(stderr, "%s: %s\n", program.c_str(), std::string(line).c_str());
  }
  return kExitConfig;
}

}  // namespace everport
