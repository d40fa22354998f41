#pragma once

#include <boost/asio/io_context.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/steady_timer.hpp>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "backend/api/service_api.h"
#include "backend/config/config.h"
#include "backend/datapath/guest_endpoint.h"
#include "backend/datapath/lane.h"
#include "backend/datapath/mempools.h"
#include "backend/datapath/poller_group.h"
#include "backend/datapath/uplink.h"
#include "backend/datapath/vhost_driver.h"
#include "backend/keeper/control_protocol.h"
#include "backend/service/event_log.h"
#include "failover/uplink_choice.h"
#include "migration/feature_contract.h"
#include "numa/placement.h"

namespace everport {

// What ports share; outlives them.
struct PortEnvironment {
  boost::asio::io_context& io;
  PollerGroup& pollers;
  Mempools& mempools;
  EventLog& events;
  FindGuest find_guest;
  std::function<void()> changed;  // a port has acted
  bool keeper = true;
  unsigned numa_nodes = 1;
  // While several ports are being attached none acts, so that a wire finds its peer.
  bool hold = false;
};

// One guest NIC: its vhost-user socket, its uplinks, and the lane between them. Control thread.
//
// What happens around it (the guest comes or changes, an uplink opens or fails, the configuration changes) ends in
// Reconcile, which compares what should be with what is and acts on the difference; it may be called at any time.
class Port {
 public:
  Port(PortConfig config, FeatureContract contract, PortEnvironment& environment);
  ~Port();  // the guest's rings are let go; uplinks are closed
  Port(const Port&) = delete;
  Port& operator=(const Port&) = delete;

  // Starts (or starts anew) the vhost-user connection on this socket: the keeper's, or QEMU's own.
  absl::Status Attach(const std::string& socket, std::shared_ptr<IndexPageMap> index_page);
  // The keeper has gone, and the session with it.
  void Detach();

  void OnSession(const SessionEvent& event);
  void Announce(const uint8_t mac[6]);
  // New uplinks, MAC and so on; what concerns the session (DiffPorts) must be the same.
  void SetConfig(const PortConfig& config);
  // The port named has come or gone: a wire to it is opened anew.
  void OnPeerChanged(const std::string& peer);
  void Reconcile();
  // Removes what uplinks keep across restarts. Call when the port is removed for good.
  void Forget();

  // Gives up an active uplink whose device has gone.
  void CheckUplink();

  const PortConfig& config() const { return config_; }
  uint64_t serial() const { return serial_; }  // another for each port ever made, whatever its name
  std::shared_ptr<GuestEndpoint> guest() const { return guest_; }
  PortView View() const;
  PlacementRow Placement() const;
  double replay_ms() const { return replay_ms_; }    // from Attach to rings served; 0: not yet
  double uplinks_ms() const { return uplinks_ms_; }  // spent on opening uplinks
  bool serving() const { return lane_ != nullptr; }

 private:
  struct Candidate {
    UplinkConfig config;
    UplinkHealth health;
    std::string error;
    std::unique_ptr<Uplink> open;
    unsigned ifindex = 0;  // of the kernel's device when it was opened; 0: it stands on none
  };

  void ChooseAndOpen();
  bool TryOpen(size_t index);
  void Activate(int index);
  void UpdateLane();
  void StartLane(Poller& poller, int guest_node);
  void StopLane();
  void EndSession();
  void ArmRetry(absl::Time when);
  void NoteState();
  std::string State() const;
  std::string PathReason() const;

  const uint64_t serial_;
  PortConfig config_;
  const FeatureContract contract_;
  PortEnvironment& env_;
  // What callbacks from other threads and late handlers hold weakly.
  std::shared_ptr<Port*> alive_ = std::make_shared<Port*>(this);

  std::shared_ptr<GuestEndpoint> guest_;
  std::unique_ptr<VhostDriver> driver_;
  SessionState session_ = SessionState::kWaiting;
  std::string session_reason_;
  std::string last_state_;

  std::vector<Candidate> uplinks_;
  int active_ = -1;
  bool told_no_path_ = false;
  boost::asio::steady_timer retry_;

  std::unique_ptr<Mempools::Lease> no_path_lease_;  // for what is received only to be dropped
  std::unique_ptr<Lane> lane_;
  int lane_path_ = -2;  // the path the lane was made for
  uint64_t lane_features_ = 0;
  Poller* poller_ = nullptr;
  PollerChoice placement_;
  int guest_node_ = -1;
  std::shared_ptr<LaneCounters> counters_ = std::make_shared<LaneCounters>();

  uint64_t malformed_before_ = 0;  // counted by guest endpoints that are gone
  bool was_running_ = false;
  uint64_t sessions_ = 0, replays_ = 0;
  absl::Time attached_at_ = absl::InfinitePast();
  double replay_ms_ = 0, uplinks_ms_ = 0;
};

}  // namespace everport
