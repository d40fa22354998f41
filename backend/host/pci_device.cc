#include "backend/host/pci_device.h"

#include <fcntl.h>
#include <net/if.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <string_view>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "backend/base/unique_fd.h"

namespace everport {
namespace {

namespace fs = std::filesystem;

constexpr char kDevices[] = "/sys/bus/pci/devices/";
constexpr char kVfio[] = "vfio-pci";
// DPDK's drivers for these work beside the kernel's.
constexpr std::string_view kSharedDrivers[] = {"mlx4_core", "mlx5_core"};

bool Shared(const std::string& driver) {
  return std::find(std::begin(kSharedDrivers), std::end(kSharedDrivers), driver) != std::end(kSharedDrivers);
}

// The last part of where a link points; empty if it is no link.
std::string LinkName(const fs::path& path) {
  std::error_code error;
  return fs::read_symlink(path, error).filename().string();
}

std::vector<std::string> List(const fs::path& folder) {
  std::vector<std::string> names;
  std::error_code error;
  for (fs::directory_iterator entry(folder, error), end; !error && entry != end; entry.increment(error))
    names.push_back(entry->path().filename().string());
  std::sort(names.begin(), names.end());
  return names;
}

std::string FirstOf(const fs::path& folder) {
  const std::vector<std::string> names = List(folder);
  return names.empty() ? "" : names[0];
}

std::string ReadLine(const fs::path& path) {
  std::string line;
  std::ifstream file(path);
  std::getline(file, line);
  return line;
}

// Base class 06: bridges. The kernel lets them share a group with what lies behind them.
bool IsBridge(const fs::path& device) {
  return absl::StartsWith(ReadLine(device / "class"), "0x06");
}

// PCI Code and ID Assignment Specification, 1: the base classes that are likely to be named by mistake.
std::string_view ClassName(absl::string_view pci_class) {
  static constexpr std::pair<absl::string_view, std::string_view> kNames[] = {
      {"0x0600", "host bridge"}, {"0x0604", "PCI bridge"}, {"0x06", "bridge"},
      {"0x01", "storage"},       {"0x03", "display"},      {"0x04", "multimedia"},
      {"0x05", "memory"},        {"0x08", "system"},       {"0x0c", "serial bus"}};
  for (const auto& [prefix, name] : kNames) {
    if (absl::StartsWith(pci_class, prefix)) return name;
  }
  return "other";
}

// A device that does not tell its class is taken at its word.
absl::Status CheckIsNetwork(const PciDevice& device) {
  if (device.pci_class.empty() || absl::StartsWith(device.pci_class, "0x02")) return absl::OkStatus();
  return absl::FailedPreconditionError(
      absl::StrCat("PCI device ", device.address, " is not a network device (PCI class ", device.pci_class.substr(0, 6),
                   ", ", std::string(ClassName(device.pci_class)),
                   "); name a NIC's VF: `lspci -D | grep -i net` lists such devices, and ls -l "
                   "/sys/class/net/PF/device/virtfn* a NIC's VFs"));
}

int VfIndex(const fs::path& pf, const std::string& address) {
  for (const std::string& name : List(pf)) {
    int index = -1;
    if (absl::StartsWith(name, "virtfn") && absl::SimpleAtoi(name.substr(6), &index) && LinkName(pf / name) == address)
      return index;
  }
  return -1;
}

std::string BindCommands(const PciDevice& device) {
  return absl::StrCat("modprobe vfio-pci; cd ", kDevices, device.address, "; echo vfio-pci > driver_override; ",
                      device.driver.empty() ? "" : absl::StrCat("echo ", device.address, " > driver/unbind; "), "echo ",
                      device.address, " > /sys/bus/pci/drivers_probe");
}

absl::Status WriteFile(const std::string& path, const std::string& text) {
  const UniqueFd fd(open(path.c_str(), O_WRONLY | O_CLOEXEC));
  if (fd.valid() && write(fd.get(), text.data(), text.size()) == static_cast<ssize_t>(text.size()))
    return absl::OkStatus();
  return absl::ErrnoToStatus(errno, absl::StrCat("writing \"", text, "\" to ", path));
}

absl::Status LoadModule(const std::string& module) {
  std::string program = "modprobe", quiet = "-q", name = module;
  char* args[] = {program.data(), quiet.data(), name.data(), nullptr};
  char path[] = "PATH=/usr/sbin:/usr/bin:/sbin:/bin";
  char* environment[] = {path, nullptr};
  pid_t pid = 0;
  int status = 0;
  int error = ENOENT;
  for (const char* file : {"/usr/sbin/modprobe", "/sbin/modprobe", "/usr/bin/modprobe"}) {
    error = posix_spawn(&pid, file, nullptr, nullptr, args, environment);
    if (error != ENOENT) break;
  }
  if (error != 0) return absl::ErrnoToStatus(error, "modprobe");
  while (waitpid(pid, &status, 0) < 0 && errno == EINTR) {
  }
  if (WIFEXITED(status) && WEXITSTATUS(status) == 0) return absl::OkStatus();
  return absl::NotFoundError(absl::StrCat("modprobe ", module, " failed"));
}

}  // namespace

KernelActions RealKernel() {
  return {WriteFile, LoadModule};
}

absl::StatusOr<PciDevice> ReadPciDevice(const std::string& root, const std::string& address) {
  const fs::path devices = root + kDevices, folder = devices / address;
  std::error_code error;
  if (!fs::exists(folder, error)) {
    return absl::NotFoundError(absl::StrCat("PCI device ", address,
                                            " does not exist; `lspci -D` lists them, and VFs are made by: echo N > "
                                            "/sys/class/net/PF/device/sriov_numvfs"));
  }
  PciDevice device;
  device.address = address;
  device.pci_class = ReadLine(folder / "class");
  device.driver = LinkName(folder / "driver");
  device.interface = FirstOf(folder / "net");
  device.pf = LinkName(folder / "physfn");
  if (!device.pf.empty()) {
    device.pf_interface = FirstOf(devices / device.pf / "net");
    device.vf_index = VfIndex(devices / device.pf, address);
  }
  const std::string group = LinkName(folder / "iommu_group");
  if (group.empty() || !absl::SimpleAtoi(group, &device.iommu_group)) {
    device.iommu_group = -1;
    return device;
  }
  for (const std::string& mate : List(absl::StrCat(root, "/sys/kernel/iommu_groups/", group, "/devices"))) {
    if (mate == address || IsBridge(devices / mate)) continue;
    const std::string driver = LinkName(devices / mate / "driver");
    device.group_mates.push_back(absl::StrCat(mate, " (", driver.empty() ? "no driver" : driver, ")"));
  }
  return device;
}

absl::Status CheckVdpa(const PciDevice& device) {
  if (absl::Status status = CheckIsNetwork(device); !status.ok()) return status;
  if (device.driver == kVfio || Shared(device.driver)) return absl::OkStatus();
  return absl::FailedPreconditionError(
      absl::StrCat("PCI device ", device.address, device.driver.empty() ? " is bound to no driver" : " is bound to ",
                   device.driver, ", not to one that DPDK's vDPA drivers use; mlx5 wants mlx5_core, others vfio-pci. ",
                   device.pf.empty()
                       ? absl::StrCat("But it is no VF: it is a NIC of this host's own",
                                      device.interface.empty() ? "" : absl::StrCat(" (", device.interface, ")"),
                                      ", which would lose it; name another device, or, if nothing here needs it, run: ")
                       : "Run: ",
                   BindCommands(device)));
}

absl::Status CheckVf(const PciDevice& device) {
  if (absl::Status status = CheckIsNetwork(device); !status.ok()) return status;
  if (device.pf.empty()) {
    return absl::FailedPreconditionError(
        absl::StrCat("PCI device ", device.address, " is not a VF; name one of its VFs (", kDevices, device.address,
                     "/virtfn0 …; echo N > sriov_numvfs there makes N of them), or use kind = \"af_xdp\" for the whole "
                     "device"));
  }
  if (Shared(device.driver)) return absl::OkStatus();  // the kernel's driver keeps it in check
  if (device.iommu_group < 0) {
    return absl::FailedPreconditionError(
        absl::StrCat("PCI device ", device.address,
                     " has no IOMMU in front of it; switch it on in the firmware and, for Intel, with intel_iommu=on "
                     "on the kernel's command line"));
  }
  if (!device.group_mates.empty()) {
    return absl::FailedPreconditionError(absl::StrCat(
        "PCI device ", device.address, " shares IOMMU group ", device.iommu_group, " with ",
        absl::StrJoin(device.group_mates, ", "),
        ", so one could write to the other's memory; put the NIC into a slot with ACS, or use another VF"));
  }
  return absl::OkStatus();
}

absl::Status CheckVfDriver(const PciDevice& device) {
  if (device.driver == kVfio || Shared(device.driver)) return absl::OkStatus();
  return absl::FailedPreconditionError(absl::StrCat(
      "PCI device ", device.address, device.driver.empty() ? " is bound to no driver" : " is bound to " + device.driver,
      device.interface.empty() ? "" : absl::StrCat(" (", device.interface, ")"),
      ", not to vfio-pci; write bind = true at the uplink, or run: ", BindCommands(device)));
}

bool PfIsSetDown(const std::string& root, const PciDevice& device) {
  if (device.pf_interface.empty()) return false;
  unsigned flags = 0;
  const bool known = absl::SimpleHexAtoi(ReadLine(root + "/sys/class/net/" + device.pf_interface + "/flags"), &flags);
  return known && (flags & IFF_UP) == 0;
}

std::string VfioGroupFile(const PciDevice& device) {
  return device.driver == kVfio ? absl::StrCat("/dev/vfio/", device.iommu_group) : "";
}

absl::Status CheckVfioAccess(const std::string& root, const PciDevice& device) {
  const std::string group = VfioGroupFile(device);
  if (group.empty()) return absl::OkStatus();
  for (const std::string& file : {std::string("/dev/vfio/vfio"), group}) {
    if (faccessat(AT_FDCWD, (root + file).c_str(), R_OK | W_OK, AT_EACCESS) == 0) continue;
    if (errno == ENOENT) {
      return absl::FailedPreconditionError(absl::StrCat("PCI device ", device.address, ": ", file,
                                                        " is missing; run: modprobe vfio-pci, and in a container "
                                                        "pass /dev/vfio through"));
    }
    return absl::PermissionDeniedError(absl::StrCat("PCI device ", device.address, ": everportd may not open ", file,
                                                    " (", std::strerror(errno), "); run: chown :everport ", file,
                                                    " && chmod g+rw ", file, ", best by a udev rule"));
  }
  return absl::OkStatus();
}

absl::Status BindToVfio(const std::string& root, const PciDevice& device, const KernelActions& kernel) {
  if (CheckVfDriver(device).ok()) return absl::OkStatus();
  const auto failed = [&](const absl::Status& status) {
    return absl::Status(status.code(), absl::StrCat("PCI device ", device.address,
                                                    ": not bound to vfio-pci: ", std::string(status.message()),
                                                    "; run by hand: ", BindCommands(device)));
  };
  const fs::path folder = root + kDevices + device.address;
  std::error_code error;
  if (!fs::exists(root + "/sys/bus/pci/drivers/vfio-pci", error)) {
    if (absl::Status status = kernel.load_module(kVfio); !status.ok()) return failed(status);
  }
  absl::Status status = kernel.write(folder / "driver_override", kVfio);
  if (status.ok() && !device.driver.empty()) status = kernel.write(folder / "driver/unbind", device.address);
  if (status.ok()) status = kernel.write(root + "/sys/bus/pci/drivers_probe", device.address);
  if (!status.ok()) return failed(status);
  if (const std::string driver = LinkName(folder / "driver"); driver != kVfio)
    return failed(
        absl::UnavailableError(absl::StrCat("the kernel left it with ", driver.empty() ? "no driver" : driver)));
  return absl::OkStatus();
}

absl::StatusOr<PciDevice> PrepareVf(const std::string& root, const std::string& address, bool bind,
                                    const KernelActions& kernel) {
  absl::StatusOr<PciDevice> device = ReadPciDevice(root, address);
  if (!device.ok()) return device;
  if (absl::Status status = CheckVf(*device); !status.ok()) return status;
  absl::Status driver = CheckVfDriver(*device);
  if (!driver.ok() && bind) {
    driver = BindToVfio(root, *device, kernel);
    if (driver.ok()) device = ReadPciDevice(root, address);
  }
  if (!driver.ok()) return driver;
  if (!device.ok()) return device;
  if (absl::Status status = CheckVfioAccess(root, *device); !status.ok()) return status;
  return device;
}

}  // namespace everport
