#include "backend/service/port.h"

#include <net/if.h>

#include <algorithm>
#include <chrono>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "backend/base/log.h"
#include "numa/page_node.h"

namespace everport {
namespace {

// What a port without a path needs to drain its guest's rings.
constexpr unsigned kNoPathMbufs = 64;

double MillisecondsSince(absl::Time start) {
  return absl::ToDoubleMilliseconds(absl::Now() - start);
}

uint64_t NextSerial() {
  static uint64_t serial = 0;  // control thread
  return ++serial;
}

// The kernel's number of the network device that an uplink stands on; another when it is made anew.
unsigned DeviceIndex(const UplinkConfig& uplink) {
  switch (uplink.kind) {
    case UplinkKind::kTap:
    case UplinkKind::kAfPacket:
    case UplinkKind::kAfXdp:
      return if_nametoindex(uplink.device.c_str());
    default:
      return 0;
  }
}

std::string Plain(const absl::Status& status) {
  return std::string(status.message());
}

}  // namespace

Port::Port(PortConfig config, FeatureContract contract, PortEnvironment& environment)
    : serial_(NextSerial()),
      config_(std::move(config)),
      contract_(std::move(contract)),
      env_(environment),
      retry_(environment.io) {
  for (const UplinkConfig& uplink : config_.uplinks) uplinks_.push_back({uplink, {}, {}, nullptr, 0});
}

Port::~Port() {
  alive_.reset();
  EndSession();
}

void Port::EndSession() {
  StopLane();
  if (guest_) guest_->Retire();  // other ports' wires let go of it too
  driver_.reset();               // callbacks end here
}

absl::Status Port::Attach(const std::string& socket, std::shared_ptr<IndexPageMap> index_page) {
  Detach();
  GuestEndpoint::Hooks hooks;
  hooks.changed = [&io = env_.io, weak = std::weak_ptr<Port*>(alive_)] {
    boost::asio::post(io, [weak] {
      if (auto alive = weak.lock()) (*alive)->Reconcile();
    });
  };
  hooks.synchronize = [&pollers = env_.pollers] { pollers.Synchronize(); };
  guest_ = std::make_shared<GuestEndpoint>(config_.name, config_.queue_pairs, std::move(index_page), std::move(hooks));
  guest_->set_mtu(config_.mtu);
  attached_at_ = absl::Now();
  auto driver = VhostDriver::Start(config_.name, socket, contract_, guest_);
  if (!driver.ok()) {
    env_.events.Add(config_.name, "state", Plain(driver.status()), true);
    session_reason_ = Plain(driver.status());
    return driver.status();
  }
  driver_ = std::move(*driver);
  boost::asio::post(env_.io, [weak = std::weak_ptr<Port*>(alive_)] {
    if (auto alive = weak.lock()) (*alive)->Reconcile();
  });
  return absl::OkStatus();
}

void Port::Detach() {
  EndSession();
  if (guest_) malformed_before_ += guest_->malformed();
  guest_.reset();
  was_running_ = false;
}

void Port::OnSession(const SessionEvent& event) {
  if (session_ == SessionState::kWaiting && event.state != SessionState::kWaiting) ++sessions_;
  session_ = event.state;
  session_reason_ = event.reason;
  NoteState();
}

void Port::Announce(const uint8_t mac[6]) {
  if (!lane_ || active_ < 0 || !uplinks_[active_].open) return;
  lane_->Announce(mac);
  poller_->Wake();
  env_.events.Add(config_.name, "announce",
                  absl::StrCat("guest ", FormatMac(mac), " announced through ", uplinks_[active_].open->description));
}

void Port::SetConfig(const PortConfig& config) {
  const std::vector<UplinkConfig> before = std::exchange(config_, config).uplinks;
  if (before == config_.uplinks) return;
  // Keep those uplinks that stay as they were: their traffic goes on.
  std::vector<Candidate> kept = std::exchange(uplinks_, {});
  const UplinkConfig active = active_ >= 0 ? kept[active_].config : UplinkConfig{};  // a copy: kept is taken apart
  int next_active = -1;
  for (const UplinkConfig& uplink : config_.uplinks) {
    auto same = std::find_if(kept.begin(), kept.end(), [&](const Candidate& c) { return c.config == uplink; });
    if (same == kept.end()) {
      uplinks_.push_back({uplink, {}, {}, nullptr, 0});
      continue;
    }
    if (active_ >= 0 && active == uplink) next_active = static_cast<int>(uplinks_.size());
    uplinks_.push_back(std::move(*same));
    kept.erase(same);
  }
  if (active_ >= 0 && next_active < 0) StopLane();
  active_ = next_active;
  if (lane_) lane_path_ = active_;
  for (Candidate& gone : kept) {
    gone.open.reset();
    if (absl::Status status = ForgetUplink(config_, gone.config); !status.ok())
      env_.events.Add(config_.name, "config", Plain(status), true);
  }
  Reconcile();
}

void Port::OnPeerChanged(const std::string& peer) {
  for (size_t i = 0; i < uplinks_.size(); ++i) {
    Candidate& candidate = uplinks_[i];
    if (candidate.config.kind != UplinkKind::kPort || candidate.config.device != peer) continue;
    if (active_ == static_cast<int>(i)) {
      StopLane();
      active_ = -1;
    }
    candidate.open.reset();
    candidate.health = {};
  }
  Reconcile();
}

void Port::CheckUplink() {
  if (active_ < 0 || !uplinks_[active_].open) return;
  Candidate& lost = uplinks_[active_];
  if (!lost.open->endpoint->failed() && DeviceIndex(lost.config) == lost.ifindex) return;
  StopLane();
  lost.open.reset();
  lost.health = AfterFailure(lost.health, absl::Now());
  lost.error = absl::StrCat(DescribeUplink(lost.config), ": the device has gone; it is tried again");
  env_.events.Add(config_.name, "path", absl::StrCat("uplink ", active_, " failed: ", lost.error), true);
  active_ = -1;
  Reconcile();
}

void Port::Forget() {
  StopLane();
  active_ = -1;
  for (Candidate& candidate : uplinks_) {
    candidate.open.reset();
    if (absl::Status status = ForgetUplink(config_, candidate.config); !status.ok())
      env_.events.Add(config_.name, "config", Plain(status), true);
  }
}

void Port::Reconcile() {
  if (env_.hold) return;
  ChooseAndOpen();
  UpdateLane();
  NoteState();
  env_.changed();
}

// Opens uplinks until the preferred one that works is open and active.
void Port::ChooseAndOpen() {
  for (size_t attempts = 0; attempts <= uplinks_.size(); ++attempts) {
    std::vector<UplinkHealth> health;
    for (const Candidate& candidate : uplinks_) health.push_back(candidate.health);
    const UplinkDecision decision = ChooseUplink(health, absl::Now());
    for (size_t probe : decision.probe) {
      if (TryOpen(probe)) return Activate(static_cast<int>(probe));
    }
    if (!decision.use) {
      Activate(-1);
      return ArmRetry(decision.next_retry);
    }
    if (uplinks_[*decision.use].open || TryOpen(*decision.use)) {
      Activate(static_cast<int>(*decision.use));
      return ArmRetry(decision.next_retry);
    }
  }
  ArmRetry(absl::Now() + kFirstRetry);
}

bool Port::TryOpen(size_t index) {
  Candidate& candidate = uplinks_[index];
  const absl::Time start = absl::Now();
  auto uplink = OpenUplink(config_, candidate.config, guest_node_, env_.mempools, env_.find_guest);
  uplinks_ms_ += MillisecondsSince(start);
  if (uplink.ok()) {
    candidate.open = std::move(*uplink);
    candidate.ifindex = DeviceIndex(candidate.config);
    candidate.health = AfterSuccess();
    candidate.error.clear();
    return true;
  }
  candidate.health = AfterFailure(candidate.health, absl::Now());
  if (const std::string error = Plain(uplink.status()); error != candidate.error) {
    candidate.error = error;
    env_.events.Add(config_.name, "path", absl::StrCat("uplink ", index, " failed: ", error), true);
  }
  return false;
}

void Port::Activate(int index) {
  if (index == active_ && (index >= 0 || told_no_path_)) return;
  StopLane();
  told_no_path_ = index < 0;
  const int before = std::exchange(active_, index);
  if (before >= 0) uplinks_[before].open.reset();
  if (index >= 0) {
    env_.events.Add(config_.name, "path",
                    absl::StrCat("path ", index, " (", uplinks_[index].open->description, ", relay): ", PathReason()));
  } else {
    env_.events.Add(config_.name, "path", "no uplink works; what the guest sends is dropped until one does", true);
  }
}

void Port::ArmRetry(absl::Time when) {
  if (when == absl::InfiniteFuture()) {
    retry_.cancel();
    return;
  }
  retry_.expires_after(absl::ToChronoMilliseconds(std::max(when - absl::Now(), absl::Milliseconds(1))));
  retry_.async_wait([weak = std::weak_ptr<Port*>(alive_)](boost::system::error_code error) {
    if (error) return;
    if (auto alive = weak.lock()) (*alive)->Reconcile();
  });
}

// A lane runs exactly while the guest's device does; a new one for each path.
void Port::UpdateLane() {
  const bool running = guest_ && guest_->running();
  if (running && !was_running_) ++replays_;
  was_running_ = running;
  if (!running) return StopLane();
  if (lane_ && lane_path_ == active_ && lane_features_ == guest_->features())
    return poller_->Wake();  // its queues may have changed
  StopLane();
  const int node = PageNode(guest_->ring_address());
  std::vector<PollerLoad> loads;
  for (const auto& poller : env_.pollers.pollers())
    loads.push_back({poller->index(), poller->numa_node(), poller->lanes()});
  placement_ = ChoosePoller(loads, node);
  if (node >= 0) guest_node_ = node;
  if (placement_.poller < 0) return;
  StartLane(*env_.pollers.pollers()[placement_.poller], node);
}

void Port::StartLane(Poller& poller, int guest_node) {
  // The uplink was opened before the guest's node was known: open it anew where its mbufs are local.
  if (active_ >= 0 && guest_node >= 0 && env_.numa_nodes > 1) {
    Candidate& candidate = uplinks_[active_];
    if (candidate.open->lease->node() != guest_node) {
      candidate.open.reset();
      if (!TryOpen(active_)) {
        active_ = -1;
        return Reconcile();
      }
    }
  }
  if (active_ < 0 && !no_path_lease_) {
    auto lease = env_.mempools.Reserve(guest_node, kNoPathMbufs);
    if (!lease.ok()) {
      env_.events.Add(config_.name, "path", Plain(lease.status()), true);
      return;
    }
    no_path_lease_ = std::move(*lease);
  }
  rte_mempool* pool = active_ >= 0 ? uplinks_[active_].open->lease->pool() : no_path_lease_->pool();
  guest_->set_pool(pool);
  if (active_ >= 0) uplinks_[active_].open->endpoint->set_receive_caps(guest_->transmit_caps());
  lane_ = std::make_unique<Lane>(config_.name, guest_, active_ >= 0 ? uplinks_[active_].open->endpoint : nullptr, pool,
                                 env_.mempools.indirect(), counters_);
  lane_path_ = active_;
  lane_features_ = guest_->features();
  poller_ = &poller;
  poller.Add(lane_.get());
  if (replay_ms_ == 0) replay_ms_ = MillisecondsSince(attached_at_);
}

void Port::StopLane() {
  if (!lane_) return;
  poller_->Remove(lane_.get());
  lane_.reset();
  poller_ = nullptr;
  lane_path_ = -2;
}

std::string Port::State() const {
  if (guest_ && guest_->running()) return "running";
  const bool connected = env_.keeper ? session_ != SessionState::kWaiting : guest_ && guest_->connected();
  return connected ? "connected" : "waiting";
}

// One event per change of state.
void Port::NoteState() {
  const std::string state = State();
  if (state == last_state_) return;
  last_state_ = state;
  std::string message = state;
  if (state == "running") {
    absl::StrAppend(&message, ", ", guest_->features() >> kRingPacked & 1 ? "packed" : "split", " rings, poller ",
                    poller_ ? poller_->index() : -1);
  } else if (!session_reason_.empty()) {
    absl::StrAppend(&message, ": ", session_reason_);
  }
  env_.events.Add(config_.name, "state", message);
}

std::string Port::PathReason() const {
  if (active_ < 0) return "no uplink works";
  if (active_ == 0) return "first choice";
  const Candidate& first = uplinks_[0];
  return absl::StrCat("uplink 0 (", DescribeUplink(first.config), "): ", first.error);
}

PortView Port::View() const {
  PortView view;
  view.config = config_;
  view.state = State();
  view.reason = session_reason_;
  if (view.reason.empty() && active_ < 0 && !uplinks_.empty()) view.reason = uplinks_[0].error;
  view.path.index = active_;
  view.path.reason = PathReason();
  if (active_ >= 0) {
    view.path.kind = std::string(UplinkKindName(uplinks_[active_].config.kind));
    view.path.mode = "relay";
  }
  for (size_t i = 0; i < uplinks_.size(); ++i) {
    const Candidate& candidate = uplinks_[i];
    const char* state = static_cast<int>(i) == active_                   ? "active"
                        : candidate.health.state == UplinkState::kFailed ? "failed"
                                                                         : "standby";
    view.uplinks.push_back({candidate.config, state, candidate.error});
  }
  const auto load = [](const std::atomic<uint64_t>& counter) { return counter.load(std::memory_order_relaxed); };
  for (unsigned pair = 0; pair < config_.queue_pairs; ++pair) {
    const uint32_t enabled = guest_ ? guest_->enabled_vrings() : 0;
    view.queues.push_back({pair, (enabled >> (2 * pair) & 1) != 0, (enabled >> (2 * pair + 1) & 1) != 0,
                           load(counters_->queues[pair].rx_packets), load(counters_->queues[pair].tx_packets)});
  }
  view.rx_packets = load(counters_->rx_packets);
  view.tx_packets = load(counters_->tx_packets);
  view.rx_bytes = load(counters_->rx_bytes);
  view.tx_bytes = load(counters_->tx_bytes);
  view.drops_guest_ring_full = load(counters_->drops_guest_full);
  view.drops_uplink_full = load(counters_->drops_uplink_full);
  view.drops_malformed = load(counters_->drops_malformed) + malformed_before_ + (guest_ ? guest_->malformed() : 0);
  view.drops_no_path = load(counters_->drops_no_path);
  view.drops = view.drops_guest_ring_full + view.drops_uplink_full + view.drops_malformed + view.drops_no_path;
  view.numa_node = guest_node_;
  view.poller = poller_ ? poller_->index() : -1;
  view.negotiated_features = guest_ ? guest_->features() : 0;
  view.packed = view.negotiated_features >> kRingPacked & 1;
  view.sessions = env_.keeper ? sessions_ : replays_;
  view.replays = replays_;
  return view;
}

PlacementRow Port::Placement() const {
  PlacementRow row;
  row.port = config_.name;
  row.guest_node = guest_node_;
  row.mempool_node = active_ >= 0 && uplinks_[active_].open ? uplinks_[active_].open->lease->node() : -1;
  row.poller = poller_ ? poller_->index() : -1;
  row.poller_node = poller_ ? poller_->numa_node() : -1;
  row.note = poller_ ? placement_.note : "not polled: the guest is not running";
  return row;
}

}  // namespace everport
