#include "backend/datapath/vf.h"

#include <fcntl.h>
#include <rte_errno.h>
#include <rte_ethdev.h>
#include <rte_memory.h>
#include <rte_vfio.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <fstream>
#include <utility>

#include "absl/strings/str_cat.h"
#include "backend/base/log.h"
#include "backend/datapath/eal.h"
#include "backend/host/vf_settings.h"

namespace everport {
namespace {

using Mac = std::array<uint8_t, 6>;

// A group's file can be open once: DPDK would only say that it could not open the device.
absl::Status CheckNotBusy(const PciDevice& device) {
  const std::string group = VfioGroupFile(device);
  if (group.empty()) return absl::OkStatus();
  const UniqueFd fd(open(group.c_str(), O_RDWR | O_CLOEXEC));
  if (fd.valid() || errno != EBUSY) return absl::OkStatus();
  return absl::FailedPreconditionError(absl::StrCat("vf ", device.address, ": in use by another program (fuser ", group,
                                                    " names it); end that, or name another VF"));
}

// VFIO counts mappings, and EAL makes one for each page: ordinary ones are more than the kernel allows by default.
absl::Status CheckMappings(const PciDevice& device) {
  if (EalHasHugepages() || VfioGroupFile(device).empty()) return absl::OkStatus();
  constexpr char kLimit[] = "/sys/module/vfio_iommu_type1/parameters/dma_entry_limit";
  const uint64_t pages = rte_eal_get_physmem_size() / static_cast<uint64_t>(sysconf(_SC_PAGESIZE));
  uint64_t limit = 65535;  // the kernel's own, should it not tell
  std::ifstream(kLimit) >> limit;
  if (pages < limit) return absl::OkStatus();
  return absl::FailedPreconditionError(absl::StrCat(
      "vf ", device.address, ": everportd's memory is in ", pages, " ordinary pages, and VFIO maps no more than ",
      limit, "; reserve hugepages (echo 512 > /proc/sys/vm/nr_hugepages) and restart everportd, or: echo ", 2 * pages,
      " > ", kLimit));
}

// What the PF has for this VF, if the PF is a network device here and tells.
bool PfGaveAnother(const PciDevice& device, const Mac& mac, bool& trusted) {
  trusted = false;
  if (device.pf_interface.empty()) return false;
  const auto settings = ReadVfSettings(device.pf_interface, device.vf_index);
  if (!settings.ok() || settings->mac == Mac{}) return false;
  trusted = settings->trusted;
  return settings->mac != mac;
}

// Drivers may say that an address was set when the PF has refused it: the PF's word counts where it can be had.
absl::Status ReceiveFor(const PciDevice& device, uint16_t ethdev_id, const std::string& text) {
  Mac mac{};
  if (!ParseMac(text, mac.data())) return absl::InternalError(absl::StrCat("MAC ", text));
  rte_ether_addr address{};
  std::copy(mac.begin(), mac.end(), address.addr_bytes);
  const int error = rte_eth_dev_default_mac_addr_set(ethdev_id, &address);
  // What the guest has joined is not known here (IPv6 needs multicast to work at all).
  if (int all = rte_eth_allmulticast_enable(ethdev_id); all != 0 && all != -ENOTSUP)
    spdlog::warn("vf {}: multicast frames may not arrive: {}", device.address, rte_strerror(-all));
  bool trusted = false;
  const bool another = PfGaveAnother(device, mac, trusted);
  if (error == 0 && !another) return absl::OkStatus();
  if ((trusted || !another) && rte_eth_promiscuous_enable(ethdev_id) == 0) {
    spdlog::info("vf {}: its PF does not let it have the MAC {}: promiscuous instead", device.address, text);
    return absl::OkStatus();
  }
  const std::string pf = device.pf_interface.empty() ? "PF" : device.pf_interface;
  return absl::FailedPreconditionError(
      absl::StrCat("vf ", device.address, ": its PF ", pf, " lets it neither have the port's MAC ", text,
                   " nor be promiscuous; run: ip link set ", pf, " vf ", std::max(device.vf_index, 0), " mac ", text));
}

}  // namespace

absl::StatusOr<PciDevice> PrepareVfDevice(const UplinkConfig& config) {
  const std::string object = absl::StrCat("vf ", config.device);
  uint16_t id = 0;
  if (rte_eth_dev_get_port_by_name(config.device.c_str(), &id) == 0) {
    return absl::AlreadyExistsError(
        absl::StrCat(object, ": in use by another port; a VF belongs to one port: name another"));
  }
  auto device = PrepareVf("", config.device, config.bind, RealKernel());
  if (!device.ok()) return device.status();  // which names it
  if (PfIsSetDown("", *device)) {
    return absl::FailedPreconditionError(absl::StrCat(object, ": its PF ", device->pf_interface,
                                                      " is down; run: ip link set ", device->pf_interface, " up"));
  }
  if (absl::Status status = CheckMappings(*device); !status.ok()) return status;
  if (absl::Status status = CheckNotBusy(*device); !status.ok()) return status;
  // EAL looks for VFIO when it starts: the module may have come later.
  if (!VfioGroupFile(*device).empty() && rte_vfio_is_enabled("vfio_pci") == 0 && rte_vfio_enable("vfio") != 0) {
    return absl::UnavailableError(
        absl::StrCat(object, ": DPDK cannot use VFIO (", rte_strerror(rte_errno), "); see the dpdk lines in the log"));
  }
  return device;
}

absl::StatusOr<std::unique_ptr<EthdevEndpoint>> OpenVfEndpoint(const PortConfig& port, const PciDevice& device,
                                                               rte_mempool* pool, std::function<void()> changed) {
  auto endpoint = EthdevEndpoint::Open({.device = absl::StrCat("vf ", device.address),
                                        .bus = "pci",
                                        .devargs = device.address,
                                        .mend = "install DPDK's driver (PMD) of this NIC; `everportctl doctor` looks "
                                                "at the rest",
                                        .queue_pairs = port.queue_pairs,
                                        .mtu = port.mtu,
                                        .promiscuous = false,
                                        .pool = pool,
                                        .descriptors = kVfDescriptors,
                                        .offloads = true,
                                        .edge_wakes = true,
                                        // A PF that is set down resets its VFs, and not every driver of a VF
                                        // notices: the link is all that it sees.
                                        .reset = [device] { return PfIsSetDown("", device); },
                                        .changed = std::move(changed)});
  if (!endpoint.ok()) return endpoint;
  if (absl::Status status = ReceiveFor(device, (*endpoint)->ethdev_id(), port.mac); !status.ok()) return status;
  return endpoint;
}

}  // namespace everport
