#pragma once

#include <functional>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "backend/api/service_api.h"

namespace everport::fakes {

// A service that is nothing but its values. Ports added run at once; what takes time is held back while hold is set.
class FakeService : public ServiceApi {
 public:
  FakeService() { config.name = "a"; }

  DaemonConfig config;
  ContractSet known_contracts;
  std::vector<PortView> ports;
  std::vector<std::string> left_out;  // saved ports, which are removed before others of their names
  std::vector<PollerView> pollers;
  std::vector<PlacementRow> placement;
  HealthView health{.ready = true, .keeper = "connected", .problems = {}, .startup = {}};
  std::vector<EventView> events;
  std::optional<ListenerView> tcp;
  std::optional<LibvirtView> libvirt;
  bool hold = false;
  std::vector<std::string> uplink_errors;   // of ports added from now on
  std::vector<std::function<void()>> held;  // answers not given yet

  void Emit(const std::string& port, const std::string& type, const std::string& message) {
    events.push_back({events.size() + 1, 1'700'000'000'000'000, port, type, message});
    for (const auto& [id, listener] : std::map(listeners_)) listener(events.back());
  }
  size_t listeners() const { return listeners_.size(); }

  const DaemonConfig& daemon_config() const override { return config; }
  const ContractSet& contracts() const override { return known_contracts; }
  std::vector<PortView> Ports() const override { return ports; }
  absl::StatusOr<PortView> Port(const std::string& name) const override {
    for (const PortView& port : ports) {
      if (port.config.name == name) return port;
    }
    return Missing(name);
  }
  void AddPort(PortConfig port, Done done) override {
    Answer([this, port = std::move(port), done = std::move(done)] {
      if (Port(port.name).ok()) {
        return done(absl::AlreadyExistsError(
            absl::StrCat("port ", port.name, ": there is one of this name; choose another, or remove it first")));
      }
      ports.push_back(NewPort(port));
      done(absl::OkStatus());
    });
  }
  void RemovePort(const std::string& name, Done done) override {
    Answer([this, name, done = std::move(done)] {
      if (std::erase(left_out, name) > 0) return done(absl::OkStatus());
      const size_t removed = std::erase_if(ports, [&](const PortView& port) { return port.config.name == name; });
      done(removed ? absl::OkStatus() : Missing(name));
    });
  }
  void SwitchPath(const std::string& name, int uplink_index, Done done) override {
    Answer([this, name, uplink_index, done = std::move(done)] {
      for (PortView& port : ports) {
        if (port.config.name != name) continue;
        if (uplink_index >= static_cast<int>(port.uplinks.size())) {
          return done(absl::OutOfRangeError(absl::StrCat("port ", name, ": no uplink ", uplink_index)));
        }
        port.path.index = uplink_index;
        port.path.kind = std::string(UplinkKindName(port.uplinks[static_cast<size_t>(uplink_index)].config.kind));
        return done(absl::OkStatus());
      }
      done(Missing(name));
    });
  }
  std::vector<PollerView> Pollers() const override { return pollers; }
  std::vector<PlacementRow> Placement() const override { return placement; }
  HealthView Health() const override { return health; }
  std::optional<ListenerView> Listener() const override { return tcp; }
  std::optional<LibvirtView> Libvirt() const override { return libvirt; }
  std::vector<EventView> RecentEvents() const override { return events; }
  int SubscribeEvents(std::function<void(const EventView&)> listener) override {
    listeners_[++last_listener_] = std::move(listener);
    return last_listener_;
  }
  void UnsubscribeEvents(int id) override { listeners_.erase(id); }

 private:
  static absl::Status Missing(const std::string& name) {
    return absl::NotFoundError(
        absl::StrCat("port ", name, ": there is none of this name; `everportctl ports` lists those there are"));
  }
  PortView NewPort(const PortConfig& added) const {
    PortView port;
    port.config = added;
    port.state = "waiting";
    port.reason = "no QEMU listens yet";
    for (size_t i = 0; i < added.uplinks.size(); ++i) {
      const std::string error = i < uplink_errors.size() ? uplink_errors[i] : "";
      port.uplinks.push_back({added.uplinks[i], error.empty() ? "standby" : "failed", error});
    }
    return port;
  }
  void Answer(std::function<void()> answer) { hold ? held.push_back(std::move(answer)) : answer(); }

  std::map<int, std::function<void(const EventView&)>> listeners_;
  int last_listener_ = 0;
};

// Two ports with distinct values everywhere, as a busy daemon shows them.
inline void FillWithExample(FakeService& service) {
  PortView a;
  a.origin = "libvirt domain vm1";
  a.config = {.name = "vm1-net0",
              .socket = "/run/vms/vm1-net0.sock",
              .mac = "52:54:00:00:00:02",
              .queue_pairs = 2,
              .mtu = 1500,
              .contract = "everport-1",
              .failback_delay_ms = 5000,
              .uplinks = {{UplinkKind::kVf, "0000:3b:02.1", ""}, {UplinkKind::kTap, "ep-vm1", "br0"}}};
  a.state = "running";
  a.path = {.index = 1,
            .kind = "tap",
            .mode = "relay",
            .reason = "fallback: vf 0000:3b:02.1 does not work: no such device; plug it in, or name another"};
  a.uplinks = {{a.config.uplinks[0], "failed", "no such device"}, {a.config.uplinks[1], "active", ""}};
  a.queues = {{0, true, true, 1000, 400}, {1, true, false, 234, 100}};
  a.rx_packets = 1234;
  a.tx_packets = 500;
  a.rx_bytes = 1234567;
  a.tx_bytes = 64000;
  a.drops = 15;
  a.drops_guest_ring_full = 1;
  a.drops_uplink_full = 2;
  a.drops_malformed = 3;
  a.drops_no_path = 4;
  a.drops_refused = 5;
  a.numa_node = 0;
  a.poller = 1;
  a.negotiated_features = uint64_t{1} << 32 | 1 << 15;
  a.packed = true;
  a.sessions = 2;
  a.replays = 3;
  PortView b;
  b.config = {
      .name = "vm2", .socket = "/run/vms/vm2.sock", .mac = "", .uplinks = {{UplinkKind::kAfPacket, "eth1", ""}}};
  b.state = "waiting";
  b.reason = "no QEMU listens yet";
  b.uplinks = {{b.config.uplinks[0], "standby", ""}};
  service.ports = {a, b};
  service.pollers = {{.index = 0, .cpus = "2", .numa_node = 0, .ports = 0},
                     {.index = 1,
                      .cpus = "3",
                      .numa_node = 0,
                      .ports = 1,
                      .busy_ratio = 0.25,
                      .loops = 7000,
                      .sleeps = 60,
                      .wakeups = 50}};
  service.placement = {{"vm1-net0", 0, 0, 1, 0, "local"}, {"vm2", -1, -1, -1, -1, "no guest"}};
  service.health.startup = {.eal_ms = 120.5, .uplinks_ms = 31.25, .replay_ms = 4, .total_ms = 200};
  service.Emit("", "config", "2 ports");
  service.Emit("vm1-net0", "path", "0 (vf) failed; 1 (tap) running");
}

}  // namespace everport::fakes
