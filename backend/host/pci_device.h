#pragma once

// PCI devices as the kernel tells of them, and whether one will do as a port's VF. Reads and writes files below
// `root`: "" for the host's own, a folder in tests. Any thread; errors name the device, the cause and the mend.

#include <functional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace everport {

struct PciDevice {
  std::string address;                   // "0000:3b:02.1"
  std::string driver;                    // the kernel's; empty: none
  std::string pf;                        // address of its physical function; empty: it is no VF
  std::string pf_interface;              // that one's network interface; empty: none that is seen here
  int vf_index = -1;                     // as `ip link set PF vf N` counts
  int iommu_group = -1;                  // -1: there is no IOMMU
  std::vector<std::string> group_mates;  // other devices of the group that are no bridges: "0000:3b:02.2 (igbvf)"
  std::string interface;                 // its own network interface; empty: none
  std::string pci_class;                 // "0x020000": Ethernet; empty: the kernel does not tell
};

// NotFound when there is no such device.
absl::StatusOr<PciDevice> ReadPciDevice(const std::string& root, const std::string& address);

// Whether the device can be given to a guest: it is a VF, behind an IOMMU, in a group of its own.
absl::Status CheckVf(const PciDevice& device);
// Whether the device can be one of DPDK's vDPA devices: it is for networks, and its driver is one that DPDK works with.
absl::Status CheckVdpa(const PciDevice& device);
// Whether its driver is one that DPDK works with.
absl::Status CheckVfDriver(const PciDevice& device);
// Whether the PF's network interface has been set down. Never waits: rtnetlink would answer only when a PF that is
// being set down has got there, which takes its driver up to a second, with its VFs out of order already.
bool PfIsSetDown(const std::string& root, const PciDevice& device);
// VFIO's file of the device's group; empty if DPDK does not use VFIO for it.
std::string VfioGroupFile(const PciDevice& device);
// Whether this process may open VFIO's files for it. root as above.
absl::Status CheckVfioAccess(const std::string& root, const PciDevice& device);

// How files of the kernel are written, and modules loaded; tests have their own kernel.
struct KernelActions {
  std::function<absl::Status(const std::string& path, const std::string& text)> write;
  std::function<absl::Status(const std::string& module)> load_module;
};
KernelActions RealKernel();

// Takes the device away from its driver and binds it to vfio-pci (by driver_override, so that it stays so until the
// device goes); loads vfio-pci if need be. Nothing to do if DPDK can work with it as it is.
absl::Status BindToVfio(const std::string& root, const PciDevice& device, const KernelActions& kernel);

// All of the above for a VF that is about to be opened. bind: the operator asks for BindToVfio.
absl::StatusOr<PciDevice> PrepareVf(const std::string& root, const std::string& address, bool bind,
                                    const KernelActions& kernel);

}  // namespace everport
