#include "backend/service/port_path.h"

#include <algorithm>
#include <optional>
#include <span>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "absl/time/clock.h"
#include "backend/base/log.h"
#include "numa/page_node.h"

namespace everport {
namespace {

// What a port without a path needs to drain its guest's rings.
constexpr unsigned kNoPathMbufs = 64;
// How often a lane is asked to get rid of what it holds before its uplink is given up for an offload device.
constexpr int kFlushRounds = 100;

using Kind = PathSwitch::Action::Kind;

}  // namespace

PortPath::PortPath(std::string port, Environment environment, UplinkSet& uplinks,
                   std::shared_ptr<LaneCounters> counters, Hooks hooks)
    : port_(std::move(port)),
      env_(environment),
      uplinks_(uplinks),
      counters_(std::move(counters)),
      hooks_(std::move(hooks)) {}

PortPath::~PortPath() {
  alive_.reset();
  Stop();
}

void PortPath::SetGuest(std::shared_ptr<GuestEndpoint> guest, GuestLink* link) {
  vdpa_.reset();  // its session ends, and it with that
  Stop();
  guest_ = std::move(guest);
  if (guest_ && link) vdpa_ = std::make_unique<VdpaPath>(env_.io, port_, guest_, *link);
}

void PortPath::Stop() {
  StopLane(false);
  offload_.reset();
  if (vdpa_) vdpa_->Abandon(hooks_.changed);
  ++runs_;  // what comes back from the run of before is not for us
  machine_.Reset(machine_.active());
  begun_ = false;
}

void PortPath::Renumber(const std::vector<int>& moved, const std::string& cause) {
  const int active = machine_.active();
  const int now = active < 0 ? -1 : moved[static_cast<size_t>(active)];
  if (now >= 0 || active < 0) {
    machine_.Renumber(now);
  } else if (lane_ && guest_->running()) {  // its uplink is about to be closed; what the guest sends waits in its rings
    StopLane(true);
    machine_.Close(cause, absl::Now());
  } else {
    Stop();
    machine_.Reset(-1);
  }
  // The lane lets go of standbys that are about to be closed.
  if (!lane_) return;
  if (guest_->running()) {
    FollowRelay();
  } else {
    Stop();
  }
}

bool PortPath::IsOffload(int path) const {
  return path >= 0 && uplinks_.at(path).open && uplinks_.at(path).open->offload;
}

// What to try: the path that is wanted, the present one, then any other, so that a path that does not start costs no
// frame of the guest's. Only -1 if none is wanted.
std::vector<int> PortPath::Candidates(int wanted) const {
  if (wanted < 0) return {-1};
  std::vector<int> candidates{wanted};
  if (active() >= 0 && uplinks_.Usable(active())) candidates.push_back(active());
  for (int i = 0; i < uplinks_.size(); ++i)
    if (uplinks_.Usable(i)) candidates.push_back(i);
  return candidates;
}

void PortPath::Reconcile(int wanted, const std::string& cause, bool orderly) {
  if (switching()) return;
  if (!guest_ || !guest_->running()) {
    if (serving()) Stop();
    begun_ = false;
    if (wanted != active()) {
      const int from = active();
      machine_.Reset(wanted);
      hooks_.switched({.from = from, .to = wanted, .cause = cause, .refused = {}, .orderly = orderly, .gap = {}});
    }
    return;
  }
  if (!begun_) {  // the guest has just started
    begun_ = true;
    if (const int node = PageNode(guest_->ring_address()); node >= 0) guest_node_ = node;
    const int before = active();
    machine_.Reset(-1);
    // Its path may have been chosen before: then there is no switch to report.
    Apply(machine_.Begin(Candidates(wanted), before == wanted ? "" : cause, true, absl::Now()));
    return;
  }
  if (wanted != active() || machine_.closed())
    return Apply(machine_.Begin(Candidates(wanted), cause, orderly, absl::Now()));
  if (offload_) return FollowOffload();
  if (vdpa_ && vdpa_->serving()) return;  // librte_vhost itself tells the device's driver what has changed
  FollowRelay();
}

void PortPath::Apply(PathSwitch::Action action) {
  switch (action.kind) {
    case Kind::kNone:
      return;
    case Kind::kQuiesce:
      return Quiesce(action.orderly);
    case Kind::kStart:
      return Start(action.path);
    case Kind::kReport: {
      const PathSwitch::Report report = machine_.report();
      if (!report.cause.empty()) hooks_.switched(report);
      return;
    }
  }
}

// A lane needs no quiescing of its own: its poller exchanges the uplink between two polls, or removes the lane.
void PortPath::Quiesce(bool orderly) {
  if (vdpa_ && vdpa_->serving()) return QuiesceVdpa();
  if (!offload_) return Apply(machine_.Quiesced(absl::Now()));
  if (!orderly) offload_->Suspect();
  offload_->Stop([this, weak = std::weak_ptr<PortPath*>(alive_), run = runs_](const absl::Status& status) {
    if (!weak.lock() || run != runs_) return;
    if (!status.ok()) spdlog::warn("port {}: {}", port_, std::string(status.message()));
    offload_.reset();
    Apply(machine_.Quiesced(absl::Now()));
    hooks_.changed();
  });
}

void PortPath::QuiesceVdpa() {
  vdpa_->Stop([this, run = runs_](const absl::Status& status) {
    if (run != runs_) return;
    if (!status.ok()) spdlog::warn("port {}: {}", port_, std::string(status.message()));
    if (guest_->running()) {
      Apply(machine_.Quiesced(absl::Now()));
    } else {  // it went meanwhile; begin anew when it comes back
      Stop();
    }
    hooks_.changed();
  });
}

void PortPath::Start(int path) {
  if (path >= 0 && !uplinks_.at(path).open) {
    return Apply(machine_.StartFailed(absl::StrCat("uplink ", path, ": closed meanwhile"), absl::Now()));
  }
  if (path >= 0 && uplinks_.at(path).open->vdpa) {
    StartVdpa(path);
  } else if (IsOffload(path)) {
    StartOffload(path);
  } else {
    StartRelay(path);
  }
}

void PortPath::StartRelay(int path) {
  absl::StatusOr<Lane::Path> next = LanePath(path);
  absl::Status status = next.status();
  PathSwitch::Outcome outcome;
  if (status.ok() && lane_) {
    lane_path_ = *next;
    const bool drain = active() >= 0 && uplinks_.at(active()).health.usable();
    outcome.unserved = poller_->Apply(lane_.get(), [&] { outcome.lost = lane_->SetPath(std::move(*next), drain); });
  } else if (status.ok()) {
    status = MakeLane(path);
  }
  if (status.ok()) return Apply(machine_.Started(absl::Now(), outcome));
  if (path >= 0) hooks_.failed(path, std::string(status.message()));
  Apply(machine_.StartFailed(std::string(status.message()), absl::Now()));
}

// The network is told first, while the guest is still served: it is to find the guest where it is about to be. Later it
// cannot be told: the device serves the guest's rings alone, and giving it one of ours takes them away from the guest.
void PortPath::StartOffload(int path) {
  if (!worker_) worker_ = std::make_unique<DeviceWorker>(env_.io);
  if (path == active()) return BeginOffload(path);
  hooks_.hush();
  announced_.reset();
  const MacAddress mac = hooks_.guest_mac();
  worker_->Run<absl::Status>(
      [device = uplinks_.at(path).open->offload, frame = MakeRarp(mac)] { return device->Announce(frame); },
      [this, weak = std::weak_ptr<PortPath*>(alive_), run = runs_, path, mac](const absl::Status& status) {
        if (!weak.lock() || run != runs_) return;
        if (status.ok()) announced_ = mac;
        if (!status.ok() && !absl::IsUnimplemented(status))
          spdlog::warn("port {}: the guest is not announced: {}", port_, std::string(status.message()));
        BeginOffload(path);
      });
}

void PortPath::BeginOffload(int path) {
  if (!uplinks_.at(path).open) {
    Apply(machine_.StartFailed(absl::StrCat("uplink ", path, ": closed meanwhile"), absl::Now()));
    return hooks_.changed();
  }
  lost_ = StopLaneForDevice();
  offload_ = std::make_unique<OffloadPath>(guest_, uplinks_.at(path).open->offload, *worker_);
  offload_->Start([this, weak = std::weak_ptr<PortPath*>(alive_), run = runs_](const absl::Status& status) {
    if (weak.lock()) OnDeviceStarted(run, status);
  });
}

void PortPath::StartVdpa(int path) {
  lost_ = StopLaneForDevice();
  vdpa_->Start(uplinks_.at(path).open->vdpa,
               [this, run = runs_](const absl::Status& status) { OnDeviceStarted(run, status); });
}

void PortPath::OnDeviceStarted(uint64_t run, const absl::Status& status) {
  if (run != runs_) return;
  if (status.ok()) {
    Apply(machine_.Started(absl::Now(), {.unserved = std::nullopt, .lost = lost_}));
  } else {
    offload_.reset();
    const std::string why(status.message());
    // The guest that went, or is migrated, is no fault of the device; Reconcile sees to it.
    const bool fault = guest_ && guest_->running() && !absl::IsCancelled(status);
    if (const int target = machine_.target(); fault && target >= 0) {
      const std::string object = absl::StrCat(DescribeUplink(uplinks_.at(target).config), ": ");
      hooks_.failed(target, std::string(absl::StripPrefix(why, object)));
    }
    Apply(machine_.StartFailed(why, absl::Now()));
  }
  hooks_.changed();
}

// A new lane when the guest's features have changed (its uplinks must know what it takes), else a new path for it when
// there are other standbys.
void PortPath::FollowRelay() {
  if (!lane_ || lane_features_ != LaneFeatures()) {
    StopLane(true);
    if (absl::Status status = MakeLane(active()); !status.ok())
      spdlog::warn("port {}: {}", port_, std::string(status.message()));
    return;
  }
  absl::StatusOr<Lane::Path> path = LanePath(active());
  if (path.ok() && !SamePath(*path, lane_path_)) {
    lane_path_ = *path;
    poller_->Apply(lane_.get(), [&] { lane_->SetPath(std::move(*path), false); });
  }
  poller_->Wake();  // its queues may have changed
}

void PortPath::FollowOffload() {
  if (!offload_->TakeChanges())
    Apply(machine_.Begin(Candidates(active()), "the guest has changed its rings", true, absl::Now()));
}

absl::StatusOr<Lane::Path> PortPath::LanePath(int path) {
  Lane::Path lane_path;
  // An endpoint that the lane has is told nothing: its poller may be in it.
  const auto prepare = [&](const std::shared_ptr<Endpoint>& endpoint) {
    const auto& had = lane_path_.standby;
    if (endpoint != lane_path_.uplink && std::find(had.begin(), had.end(), endpoint) == had.end())
      endpoint->set_receive_caps(guest_->transmit_caps());
  };
  for (int i = 0; i < uplinks_.size(); ++i) {
    const UplinkSet::Item& item = uplinks_.at(i);
    if (!item.open || !item.open->endpoint) continue;
    if (i == path) {
      prepare(item.open->endpoint);
      lane_path.uplink = item.open->endpoint;
      lane_path.pool = item.open->lease->pool();
    } else if (item.health.open() && item.open->endpoint->receive_queues() > 0) {
      prepare(item.open->endpoint);
      lane_path.standby.push_back(item.open->endpoint);
    }
  }
  if (lane_path.pool) return lane_path;
  if (!no_path_lease_) {
    auto lease = env_.mempools.Reserve(guest_node_, kNoPathMbufs);
    if (!lease.ok()) return lease.status();
    no_path_lease_ = std::move(*lease);
  }
  lane_path.pool = no_path_lease_->pool();
  return lane_path;
}

bool PortPath::SamePath(const Lane::Path& a, const Lane::Path& b) {
  return a.uplink == b.uplink && a.pool == b.pool && a.standby == b.standby;
}

absl::Status PortPath::MakeLane(int path) {
  absl::StatusOr<Lane::Path> lane_path = LanePath(path);
  if (!lane_path.ok()) return lane_path.status();
  PlaceLane();
  if (placement_.poller < 0) return absl::FailedPreconditionError("there is no poller");
  lane_ = std::make_unique<Lane>(port_, guest_, hooks_.guest_mac().data(), env_.mempools.indirect(), counters_);
  lane_features_ = LaneFeatures();
  lane_path_ = *lane_path;
  lane_->SetPath(std::move(*lane_path), false);
  poller_ = env_.pollers.pollers()[static_cast<size_t>(placement_.poller)].get();
  poller_->Add(lane_.get());
  return absl::OkStatus();
}

void PortPath::PlaceLane() {
  const int node = PageNode(guest_->ring_address());
  std::vector<PollerLoad> loads;
  for (const auto& poller : env_.pollers.pollers())
    loads.push_back({poller->index(), poller->numa_node(), poller->lanes()});
  placement_ = ChoosePoller(loads, node);
  if (node >= 0) guest_node_ = node;
}

uint64_t PortPath::StopLaneForDevice() {
  return StopLane(active() >= 0 && uplinks_.at(active()).health.usable());
}

// orderly: what the lane holds is sent first, as far as the uplink takes it. Else how many frames are lost that the
// uplink had taken, as far as it tells.
uint64_t PortPath::StopLane(bool orderly) {
  if (!lane_) return 0;
  uint64_t lost = 0;
  if (!orderly) poller_->Apply(lane_.get(), [&] { lost = lane_->in_flight(); });
  bool held = orderly;
  for (int i = 0; held && i < kFlushRounds; ++i) poller_->Apply(lane_.get(), [&] { held = !lane_->Flush(); });
  poller_->Remove(lane_.get());
  lane_.reset();
  lane_path_ = {};
  poller_ = nullptr;
  return lost;
}

uint64_t PortPath::StalledMs(absl::Time now) {
  if (lane_) return lane_->stalled_ms();
  if (vdpa_ && vdpa_->serving()) return vdpa_->StalledMs(now);
  return offload_ ? offload_->StalledMs(now) : 0;
}

Announcement PortPath::Announce(const MacAddress& mac) {
  if (offload_) return announced_ == mac ? Announcement::kMade : Announcement::kNotMade;
  if (vdpa_ && vdpa_->serving()) return Announcement::kNotMade;
  if (!lane_ || active() < 0) return Announcement::kUnserved;
  lane_->Announce(mac.data());
  poller_->Wake();
  return Announcement::kSent;
}

}  // namespace everport
