#pragma once

// What an uplink takes for itself alone, so that two are known to want one thing however they write it. Internal to
// everport_config, the preflight and doctor. Pure; any thread.

#include <string>
#include <vector>

#include "backend/config/config.h"

namespace everport::config {

struct Claim {
  std::string object;  // "network interface \"eth0\"": what it is compared by, and named by
  // The interface is there without the uplink, which makes none of that name: one port may list it under several kinds
  // (af_xdp, and af_packet should that fail), of which one is used at a time.
  bool listens = false;
};

// Network interfaces by name, PCI devices by their address as the kernel writes it, device nodes by their path without
// "." and "..", vdevs by DPDK's name; a vdev also takes what its arguments name. A wire takes nothing.
std::vector<Claim> ClaimsOf(const UplinkConfig& uplink);

// Of the PCI device that a vf or vdpa uplink names, as the kernel writes it; empty if that is none.
std::string PciAddressOf(const UplinkConfig& uplink);
// "0000:3b:02.1" of what DPDK takes for the same ("pci:3B:02.1"); empty if it is no PCI address.
std::string NormalPciAddress(const std::string& text);
// "/dev/vhost-vdpa-0" of "/dev//../dev/vhost-vdpa-0"
std::string NormalNode(const std::string& path);

}  // namespace everport::config
