#pragma once

// The configuration as values: what `--config FILE` says (design.md, "The outside contract"), checked.
// One file serves everport-keeper and everportd. Pure; any thread.

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "migration/feature_contract.h"

namespace everport {

enum class UplinkKind { kVf, kVdpa, kVhostVdpa, kTap, kAfPacket, kAfXdp, kVirtioUser, kVdev, kPort };
std::string_view UplinkKindName(UplinkKind kind);                   // "af_packet", as the configuration writes it
absl::StatusOr<UplinkKind> ParseUplinkKind(std::string_view text);  // InvalidArgument lists the kinds

struct UplinkConfig {
  UplinkKind kind = UplinkKind::kTap;
  std::string device;  // tap, virtio-user, af_*: interface name; vf: PCI address; vdpa: the same, with DPDK's device
                       // arguments behind it where needed; vdev: DPDK vdev string; port: that port's name
  std::string bridge;  // tap and virtio-user only; empty: none
  bool bind = false;   // vf only: the daemon binds the device to vfio-pci itself
  bool operator==(const UplinkConfig&) const = default;
};

// What to put behind an uplink's index where something is said of it, so that it is named once: " (tap ep-vm1)", or
// less if what is said names the device (" (vf)") or begins with all that ("").
std::string UplinkAside(std::string_view kind, std::string_view device, std::string_view said);

struct PortConfig {
  std::string name;          // [A-Za-z0-9][A-Za-z0-9_.-]{0,62}
  std::string socket;        // absolute path of QEMU's server socket, at most 107 bytes
  std::string mac;           // lower case aa:bb:cc:dd:ee:ff, unicast; empty: made from the name, locally administered
  uint16_t queue_pairs = 1;  // 1 … 16
  uint16_t mtu = 1500;       // 68 … 9216
  std::string contract = "everport-1";  // a built-in one's name or that of a [[contract]]
  uint32_t failback_delay_ms = 5000;
  bool postcopy = false;              // the guest may arrive by post-copy migration
  std::vector<UplinkConfig> uplinks;  // at least one; order is preference
  bool operator==(const PortConfig&) const = default;
};

// [daemon.listen]: the API over TCP, with TLS on both sides. Paths are absolute, files PEM.
struct ListenConfig {
  std::string address;             // as written: "0.0.0.0:9440", "[::]:9440"
  std::string ip;                  // of address, without brackets
  uint16_t port = 0;               // of address, never 0
  std::string certificate, key;    // the daemon's own, with what intermediate certificates there are
  std::string ca;                  // whose certificates clients have
  std::vector<std::string> allow;  // names (CN or SAN) of clients that may connect; empty: all of the CA
  bool operator==(const ListenConfig&) const = default;
};

// [libvirt]: ports that come and go with libvirt's domains. In device and bridge of an uplink {port} stands for the
// port's name, {domain} for the domain's, {mac} for the interface's address in 12 hexadecimal digits, {n} for its
// number among the domain's vhostuser interfaces, from 0.
struct LibvirtConfig {
  std::string uri = "qemu:///system";
  std::string socket_folder;  // absolute, without a slash at its end: interfaces whose sockets lie directly in it
  std::string contract = "everport-1";
  uint16_t mtu = 1500;  // of interfaces that say none
  uint32_t failback_delay_ms = 5000;
  std::vector<UplinkConfig> uplinks;  // at least one; order is preference
  bool operator==(const LibvirtConfig&) const = default;
};
// The uplinks of such a port. FailedPrecondition, "cause; mend", if the domain's name cannot stand in one.
struct UplinkNames {
  std::string port, domain, mac;
  size_t number = 0;
};
absl::StatusOr<std::vector<UplinkConfig>> FillUplinks(const std::vector<UplinkConfig>& templates,
                                                      const UplinkNames& names);

struct DaemonConfig {
  std::string name = "everport";
  std::string run_dir = "/run/everport";
  std::string state_dir = "/var/lib/everport";
  bool keeper = true;
  std::vector<unsigned> poller_cpus;  // empty: "auto"
  enum class Memory { kAuto, kHugepages, kOrdinary } memory = Memory::kAuto;
  uint32_t max_sleep_us = 250;  // 0: always poll; at most 1,000,000
  std::string log_level = "info";
  std::optional<ListenConfig> listen;
  bool operator==(const DaemonConfig&) const = default;
};

struct Config {
  DaemonConfig daemon;
  ContractSet contracts;          // the built-in ones, then each [[contract]] in file order
  std::vector<PortConfig> ports;  // in file order, names and sockets distinct
  std::optional<LibvirtConfig> libvirt;
  bool operator==(const Config&) const = default;
};

// Parses and checks TOML text. Every error names origin (a file name), line, key, cause and mend:
//   everport.toml:14: port[1].uplink[0].kind: "tapp" is not an uplink kind; use one of vf, vdpa, …
// The status has one such line for each fault (one that only follows from another is left out), in the file's order.
absl::StatusOr<Config> ParseConfig(std::string_view toml, const std::string& origin);
absl::StatusOr<Config> LoadConfig(const std::string& path);
// What such a status says, in one line: the first fault, and how many there are besides.
std::string FirstFault(const absl::Status& status);

// Checks one port by itself and in place (fills in what may be left out); the same rules as in a file. what: "port
// vm1". contracts: those that it may have.
absl::Status CheckPort(PortConfig& port, const std::string& what, const ContractSet& contracts = BuiltInContracts());
// Checks ports against each other: duplicate names or sockets, a tap or netdev used twice, a port wire that is not
// mutual. The peer of a wire must name this port back; one that is not there is refused in a file, while the API, which
// adds ports one by one, allows it.
enum class UnknownPeer { kRefuse, kAllow };
absl::Status CheckPorts(const std::vector<PortConfig>& ports, UnknownPeer unknown_peer = UnknownPeer::kRefuse);

std::string FormatMac(const uint8_t mac[6]);
bool ParseMac(std::string_view text, uint8_t mac[6]);

// JSON form of one port, the body of POST /v1/ports and of state files: the same keys as in the file, "uplink" a list.
std::string PortToJson(const PortConfig& port);
// contracts: those that it may have; nullptr: not known here, so name and limits are left to whoever knows.
absl::StatusOr<PortConfig> PortFromJson(std::string_view json, const ContractSet* contracts = &BuiltInContracts());

// Refuses to change or take away a contract under a port that has it before and after: its guest negotiated what it was
// offered, and QEMU would not take another offer. Names the first such port.
absl::Status CheckContractsKept(const std::vector<PortConfig>& before, const ContractSet& contracts_before,
                                const std::vector<PortConfig>& after, const ContractSet& contracts_after);

// What must happen to go from one set of ports to another. Names; a port is in at most one list.
struct PortDiff {
  std::vector<std::string> removed;
  std::vector<std::string> added;
  std::vector<std::string> session_changed;  // socket, queue_pairs, mtu, contract, postcopy: the session begins anew
  std::vector<std::string> uplink_changed;   // uplinks, mac, failback delay: the guest notices nothing
  bool operator==(const PortDiff&) const = default;
};
PortDiff DiffPorts(const std::vector<PortConfig>& from, const std::vector<PortConfig>& to);

}  // namespace everport
