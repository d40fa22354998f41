#pragma once

#include <array>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "backend/datapath/lane.h"
#include "backend/datapath/mempools.h"
#include "backend/datapath/poller_group.h"
#include "backend/service/announcer.h"
#include "backend/service/offload_path.h"
#include "backend/service/uplink_set.h"
#include "backend/service/vdpa_path.h"
#include "failover/path_switch.h"
#include "migration/announce.h"
#include "migration/feature_contract.h"
#include "numa/placement.h"

namespace everport {

// The path that serves a port's guest: a lane on a poller, or an offload device, and the moving from one to another
// (failover/path_switch.h decides, this acts). Control thread.
class PortPath {
 public:
  struct Environment {
    boost::asio::io_context& io;
    PollerGroup& pollers;
    Mempools& mempools;
  };
  struct Hooks {
    // A switch has ended; the report is good for the time of the call.
    std::function<void(const PathSwitch::Report&)> switched;
    // A path did not start: it is to be counted against its uplink.
    std::function<void(int index, const std::string& why)> failed;
    // What was awaited has come: reconcile.
    std::function<void()> changed;
    // By which a device that is about to be given the rings tells the network of the guest.
    std::function<MacAddress()> guest_mac;
    // It is about to do so: the path before it is not to tell the network any more.
    std::function<void()> hush;
  };
  PortPath(std::string port, Environment environment, UplinkSet& uplinks, std::shared_ptr<LaneCounters> counters,
           Hooks hooks);
  ~PortPath();

  // The guest's rings; nullptr: it has gone. link: its session, for devices that are attached to it (uplink kind
  // vdpa), or nullptr if the guest would notice (no keeper); must outlive its use here.
  void SetGuest(std::shared_ptr<GuestEndpoint> guest, GuestLink* link);
  // The guest endpoint has said so: what is awaited of it may have come.
  void OnGuestChanged() {
    if (vdpa_) vdpa_->OnGuestChanged();
  }

  // Makes `wanted` (-1: none) the path, and lets the lane follow what else has changed: the guest's queues and
  // features, standbys. orderly: the present path works. While a switch is under way nothing is done; Hooks::changed
  // tells its end.
  void Reconcile(int wanted, const std::string& cause, bool orderly);
  // The uplinks have other indices now: moved[i] is the new one of i, -1 if it is not one any more. None of the latter
  // is in use when it returns; if one was, the next Reconcile is the switch away from it, for this cause. Not while
  // switching().
  void Renumber(const std::vector<int>& moved, const std::string& cause);
  // Nobody uses the guest's rings when it returns, but for a device that is attached to the guest's session: that is
  // being detached, or ends with the session.
  void Stop();

  bool switching() const { return machine_.state() != PathSwitch::State::kSteady || reconnecting(); }
  // The guest's session is being taken up anew on purpose: that its device does not run means nothing.
  bool reconnecting() const { return vdpa_ && !vdpa_->idle() && !vdpa_->serving(); }
  int active() const { return machine_.active(); }
  bool offloaded() const { return offload_ != nullptr || (vdpa_ && vdpa_->serving()); }
  bool serving() const { return lane_ != nullptr || offloaded(); }
  const Poller* poller() const { return poller_; }
  const PollerChoice& placement() const { return placement_; }
  int guest_node() const { return guest_node_; }
  uint64_t StalledMs(absl::Time now);
  Announcement Announce(const MacAddress& mac);

 private:
  void Apply(PathSwitch::Action action);
  void Quiesce(bool orderly);
  void Start(int path);
  void StartRelay(int path);
  void StartOffload(int path);
  void BeginOffload(int path);
  void StartVdpa(int path);
  void QuiesceVdpa();
  void OnDeviceStarted(uint64_t run, const absl::Status& status);
  void FollowRelay();
  void FollowOffload();
  absl::Status MakeLane(int path);
  uint64_t StopLane(bool orderly);
  uint64_t StopLaneForDevice();
  absl::StatusOr<Lane::Path> LanePath(int path);
  static bool SamePath(const Lane::Path& a, const Lane::Path& b);
  void PlaceLane();
  // Without VHOST_F_LOG_ALL, which changes nothing for a lane.
  uint64_t LaneFeatures() const { return guest_->features() & ~(uint64_t{1} << kVhostLogAll); }
  bool IsOffload(int path) const;
  std::vector<int> Candidates(int wanted) const;

  const std::string port_;
  Environment env_;
  UplinkSet& uplinks_;
  const std::shared_ptr<LaneCounters> counters_;
  const Hooks hooks_;
  std::shared_ptr<PortPath*> alive_ = std::make_shared<PortPath*>(this);
  PathSwitch machine_;
  bool begun_ = false;  // the guest has been served since it started

  std::shared_ptr<GuestEndpoint> guest_;
  std::unique_ptr<Mempools::Lease> no_path_lease_;  // for what is received only to be dropped
  std::unique_ptr<Lane> lane_;
  Lane::Path lane_path_;
  uint64_t lane_features_ = 0;
  Poller* poller_ = nullptr;
  PollerChoice placement_;
  int guest_node_ = -1;

  std::unique_ptr<DeviceWorker> worker_;  // of offload devices; made when first needed
  std::unique_ptr<OffloadPath> offload_;
  std::unique_ptr<VdpaPath> vdpa_;  // of the guest's session; nullptr: it cannot have such devices
  uint64_t runs_ = 0;
  uint64_t lost_ = 0;                    // by the lane that the device being started replaces
  std::optional<MacAddress> announced_;  // by the offload device, before it was given the rings
};

}  // namespace everport
