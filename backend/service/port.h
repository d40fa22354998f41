#pragma once

#include <boost/asio/io_context.hpp>
#include <boost/asio/steady_timer.hpp>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "backend/api/service_api.h"
#include "backend/config/config.h"
#include "backend/datapath/guest_endpoint.h"
#include "backend/datapath/lane.h"
#include "backend/datapath/vhost_driver.h"
#include "backend/keeper/control_protocol.h"
#include "backend/service/announcer.h"
#include "backend/service/event_log.h"
#include "backend/service/port_path.h"
#include "backend/service/postcopy_progress.h"
#include "backend/service/uplink_set.h"
#include "failover/uplink_choice.h"
#include "migration/feature_contract.h"

namespace everport {

// The event of a path chosen by hand that cannot be followed any more.
std::string ChoiceGone(const std::string& uplink);

// What ports share; outlives them.
struct PortEnvironment {
  boost::asio::io_context& io;
  PollerGroup& pollers;
  EventLog& events;
  UplinkEnvironment uplinks;
  std::function<void()> changed;                               // a port has acted
  std::function<void(const std::string& port)> guest_changed;  // its PeerGuest is another
  bool keeper = true;
  unsigned numa_nodes = 1;
  // While several ports are being attached none acts, so that a wire finds its peer.
  bool hold = false;
};

// One guest NIC: its vhost-user socket, its uplinks, and the path between them. Control thread.
//
// What happens around it (the guest comes or changes, an uplink opens or fails, the configuration changes) ends in
// Reconcile, which compares what should be with what is and acts on the difference; it may be called at any time.
class Port {
 public:
  using Done = std::function<void(absl::Status)>;

  Port(PortConfig config, FeatureContract contract, PortEnvironment& environment);
  ~Port();  // the guest's rings are let go; uplinks are closed
  Port(const Port&) = delete;
  Port& operator=(const Port&) = delete;

  // Starts (or starts anew) the vhost-user connection on this socket: the keeper's, or QEMU's own.
  absl::Status Attach(const std::string& socket, std::shared_ptr<IndexPageMap> index_page);
  // The keeper has gone, and the session with it.
  void Detach();

  void OnSession(const SessionEvent& event);
  // The front-end asks for it (SEND_RARP).
  void Announce(const MacAddress& mac);
  // SetConfig follows: what this leaves out is not opened any more.
  void PrepareConfig(const PortConfig& config) { uplinks_.PrepareConfig(config); }
  // New uplinks, MAC and so on; what concerns the session (DiffPorts) must be the same. A guest whose uplink is not
  // among them is moved off it first, if another works, which may take until after the call.
  void SetConfig(const PortConfig& config);
  // It has not taken that over yet.
  bool config_due() const { return config_due_; }
  // The port named has come or gone: a wire to it is opened anew.
  void OnPeerChanged(const std::string& peer);
  // The guest of the port named has come or gone.
  void OnPeerGuest(const std::string& peer);
  // For other ports' wires.
  PeerGuest guest_state() const;
  void OnNetdev(const std::string& name, unsigned index, bool running);
  void OnDeviceEvent();
  void Reconcile();
  // Removes what uplinks keep across restarts. Call when the port is removed for good.
  void Forget();

  // By hand: this uplink is preferred to all others from now on; -1: the order of the configuration is. done is called
  // when the switch has ended: FailedPrecondition says why the uplink cannot be used.
  void ChoosePath(int index, Done done);
  // That choice; nullopt: none. SetChosen: one that was made before the daemon started, if it is still an uplink.
  std::optional<UplinkConfig> chosen() const;
  void SetChosen(const UplinkConfig& uplink);
  // Calls done when each uplink has been tried once.
  void WhenSettled(std::function<void()> done);
  // Asks the devices how they are.
  void PollHealth();
  // Whether the kernel's network devices are still those that were opened.
  void CheckNetdevs();
  bool needs_polling() const { return uplinks_.needs_polling(); }

  const PortConfig& config() const { return config_; }
  uint64_t serial() const { return serial_; }  // another for each port ever made, whatever its name
  std::shared_ptr<GuestEndpoint> guest() const { return guest_; }
  std::shared_ptr<LaneCounters> counters() const { return counters_; }
  PortView View() const;
  PlacementRow Placement() const;
  double replay_ms() const { return replay_ms_; }  // from Attach to rings served; 0: not yet
  double uplinks_ms() const { return uplinks_.opening_ms(); }
  bool serving() const { return path_.serving(); }

 private:
  void EndSession();
  void ChooseAndSwitch();
  void TakeConfig();
  std::string CauseOfLeaving(int index) const;
  void RehomeUplinks();
  std::string Cause(int wanted) const;
  void OnSwitched(const PathSwitch::Report& report);
  void SetMac();
  void NoteAnnouncement(Announcement made, bool asked);
  void ArmTimer(absl::Time when);
  void NoteState();
  void TellPeers();
  std::string State() const;
  std::string PathReasonFor(int index) const;
  std::string WhyNot(int index) const;
  std::string ProvingText(int index) const;
  std::string PathText(int index) const;
  std::function<void()> PostReconcile();

  const uint64_t serial_;
  PortConfig config_;
  const FeatureContract contract_;
  PortEnvironment& env_;
  // What callbacks from other threads and late handlers hold weakly.
  std::shared_ptr<Port*> alive_ = std::make_shared<Port*>(this);

  std::shared_ptr<GuestEndpoint> guest_;
  std::unique_ptr<GuestLink> link_;
  SessionState session_ = SessionState::kWaiting;
  std::string session_reason_;
  PostcopyProgress postcopy_;
  std::string last_state_;

  std::shared_ptr<LaneCounters> counters_ = std::make_shared<LaneCounters>();
  UplinkSet uplinks_;
  PortPath path_;
  bool config_due_ = false;  // uplinks_ has not taken config_ over yet: the guest is being moved off what it drops
  int chosen_ = -1;          // by hand
  Done choosing_;            // to be told of the switch by hand that is under way
  std::vector<std::function<void()>> settling_;
  bool told_no_path_ = false;
  Announcer announcer_;
  std::optional<MacAddress> told_announced_;  // what was asked for and not sent: told once on each path
  boost::asio::steady_timer timer_;
  PathSwitchStats switches_;

  uint64_t malformed_before_ = 0;  // counted by guest endpoints that are gone
  bool was_running_ = false;
  PeerGuest told_peers_ = PeerGuest::kUnknown;
  uint64_t sessions_ = 0, replays_ = 0;
  absl::Time attached_at_ = absl::InfinitePast();
  double replay_ms_ = 0;
};

}  // namespace everport
