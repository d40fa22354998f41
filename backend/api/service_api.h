#pragma once

// What the API needs of the daemon, as an interface, so that the HTTP server, the routes and the metrics are built and
// tested without DPDK. All calls come from the control thread and return at once; what takes time reports through
// `done`, called later on the control thread, exactly once.

#include <cstdint>
#include <functional>
#include <iterator>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "backend/config/config.h"

namespace everport {

struct PathView {
  int index = -1;    // into uplinks; -1: none is active
  std::string kind;  // "tap"
  std::string mode;  // "relay" | "offload"
  int chosen = -1;   // by hand, whether or not it works; -1: none
  // Why this one: "first choice", "chosen by hand", "fallback: vf 0000:3b:02.1 does not work: no such device; …"
  std::string reason;
  std::string warning = {};  // of the choice by hand: that it cannot be saved, and the mend; empty if nothing
};

// Path switches of a port since the daemon started, with how long the guest was without a path at most, each time.
struct PathSwitchStats {
  // Upper bounds of the histogram's buckets, seconds; the last one has none.
  static constexpr double kBounds[] = {0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1};
  static constexpr size_t kBuckets = std::size(kBounds) + 1;
  uint64_t buckets[kBuckets] = {};  // each counts its own alone
  double sum_seconds = 0;
  uint64_t planned = 0, failovers = 0;

  void Add(double seconds, bool is_planned) {
    size_t i = 0;
    while (i + 1 < kBuckets && seconds > kBounds[i]) ++i;
    ++buckets[i];
    sum_seconds += seconds;
    ++(is_planned ? planned : failovers);
  }
};

struct UplinkView {
  UplinkConfig config;
  std::string state;  // "active" | "standby" | "opening" | "failed"
  std::string error;  // of the last attempt to open it; empty if none
  // What is to be known of one that works: "works again, trusted in 3.2 s".
  std::string note = {};
};

// Of a port whose guest may arrive by post-copy.
struct PostcopyView {
  // "none"; "advised": the guest may come so; "listening": it runs here, or is about to, and pages of its memory are
  // yet to come.
  std::string phase = "none";
  double seconds = 0;  // of listening: so far, or the last time
  // Since the daemon started: those that ended with all pages here, those that did not, and how long all listened.
  uint64_t completed = 0, broken_off = 0;
  double total_seconds = 0;
};

struct QueueView {
  unsigned pair = 0;
  bool rx_enabled = false, tx_enabled = false;  // as the guest set them
  uint64_t rx_packets = 0, tx_packets = 0;
};

struct PortView {
  PortConfig config;
  std::string state;            // "waiting" | "connected" | "running"
  std::string reason;           // what it waits for, or what went wrong last; empty if nothing
  std::string origin = "file";  // where it comes from: "file", "api", "libvirt domain vm1"
  PathView path;
  std::vector<UplinkView> uplinks;
  std::vector<QueueView> queues;
  // Towards the guest is rx, from the guest tx, as the guest names them. Drops by cause.
  uint64_t rx_packets = 0, tx_packets = 0, rx_bytes = 0, tx_bytes = 0;
  uint64_t drops = 0;                  // sum of the following
  uint64_t drops_guest_ring_full = 0;  // no room in the guest's receive ring
  uint64_t drops_uplink_full = 0;      // the uplink took no more
  uint64_t drops_malformed = 0;        // frames from the guest that cannot be sent as it asked (offload lies, lengths)
  uint64_t drops_no_path = 0;          // no uplink was active
  uint64_t drops_refused = 0;  // the uplink's device can never send it (too long, or the kernel does not want it)
  int numa_node = -1;          // where the guest's rings lie; -1 unknown
  int poller = -1;             // poller index; -1: not polled now
  uint64_t negotiated_features = 0;
  bool packed = false;
  uint16_t ring_size = 0;  // descriptors, of the running guest's largest ring; 0: not known
  PathSwitchStats switches;
  PostcopyView postcopy;
  uint64_t sessions = 0;  // front-end sessions since the daemon started
  uint64_t replays = 0;   // times a session was taken over from the keeper
};

struct PollerView {
  int index = 0;
  std::string cpus;  // "2" or "0-1"
  int numa_node = -1;
  unsigned ports = 0;
  double busy_ratio = 0;  // of time not asleep, over the last second
  uint64_t loops = 0, sleeps = 0, wakeups = 0;
};

struct PlacementRow {
  std::string port;
  int guest_node = -1;  // where the kernel says the guest's ring pages are
  int mempool_node = -1;
  int poller = -1;
  int poller_node = -1;
  std::string note;  // "local", or what is remote and why
};

struct StartupView {  // milliseconds of the last start, for the operator who asks why it took so long
  double eal_ms = 0, uplinks_ms = 0, replay_ms = 0, total_ms = 0;
};

struct HealthView {
  bool ready = false;                 // control loop and pollers alive, keeper connected (or keeper = false)
  std::string keeper;                 // "connected" | "not connected: …" | "off"
  std::string libvirt = "off";        // the same; guests are served without it
  std::vector<std::string> problems;  // one line each, with the mend
  StartupView startup;
};

// The API over TCP ([daemon.listen]).
struct ListenerView {
  std::string address;                // that it listens on; empty: it does not
  int64_t certificate_not_after = 0;  // of the certificate in force, seconds since 1970; 0: there is none
  uint64_t connections = 0;           // now open, after their handshake
  uint64_t accepted = 0;              // handshakes that came to a good end, since the daemon started
  std::vector<std::pair<std::string, uint64_t>> refused;  // by cause, all causes there are
  std::vector<std::string> problems;                      // for HealthView
};

// libvirt's domains ([libvirt]).
struct LibvirtView {
  std::string uri, socket_folder;
  bool connected = false;
  std::string trouble;  // why not
  size_t ports = 0;     // of domains
  size_t refused = 0;   // interfaces in the folder that get none
};
// What problems of it begin with.
inline constexpr const char* kLibvirtProblem = "libvirt: ";

struct EventView {
  uint64_t id = 0;
  int64_t time_unix_us = 0;
  std::string port;  // empty: the daemon itself
  std::string type;  // "state", "path", "config", "keeper", …
  std::string message;
  struct PathChange {
    int from = -1, to = -1;  // uplink indices; -1: none
    std::string cause;
    double ms = 0;      // that the guest was without a path, at most
    uint64_t lost = 0;  // frames that the uplink had taken and, as far as it tells, not sent
  };
  std::optional<PathChange> path = std::nullopt;  // of type "path", when the path is another
};

class ServiceApi {
 public:
  using Done = std::function<void(absl::Status)>;

  virtual ~ServiceApi() = default;
  virtual const DaemonConfig& daemon_config() const = 0;
  virtual const ContractSet& contracts() const = 0;                          // that ports here may have
  virtual std::vector<PortView> Ports() const = 0;                           // by configuration order
  virtual absl::StatusOr<PortView> Port(const std::string& name) const = 0;  // NotFound
  virtual void AddPort(PortConfig port, Done done) = 0;                      // AlreadyExists, InvalidArgument, …
  virtual void RemovePort(const std::string& name, Done done) = 0;           // NotFound
  // uplink_index -1: by the configuration's order again. NotFound, OutOfRange, FailedPrecondition.
  virtual void SwitchPath(const std::string& name, int uplink_index, Done done) = 0;
  virtual std::vector<PollerView> Pollers() const = 0;
  virtual std::vector<PlacementRow> Placement() const = 0;
  virtual HealthView Health() const = 0;
  // Nothing: it is not configured.
  virtual std::optional<ListenerView> Listener() const { return std::nullopt; }
  // Nothing: it is not configured.
  virtual std::optional<LibvirtView> Libvirt() const { return std::nullopt; }
  virtual std::vector<EventView> RecentEvents() const = 0;  // oldest first, the last 1024
  // Calls listener for each event from now on, on the control thread, until Unsubscribe(id).
  virtual int SubscribeEvents(std::function<void(const EventView&)> listener) = 0;
  virtual void UnsubscribeEvents(int id) = 0;
};

}  // namespace everport
