#include "backend/service/port.h"

#include <algorithm>
#include <boost/asio/post.hpp>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "backend/base/log.h"
#include "numa/page_node.h"

namespace everport {
namespace {

// How long a port that has been attached may take to find its guest before others' wires to it count as leading
// nowhere.
constexpr absl::Duration kGuestAppears = absl::Seconds(1);

double MillisecondsSince(absl::Time start) {
  return absl::ToDoubleMilliseconds(absl::Now() - start);
}

uint64_t NextSerial() {
  static uint64_t serial = 0;  // control thread
  return ++serial;
}

// What a choice by hand follows through changes of the configuration.
bool SameDevice(const UplinkConfig& a, const UplinkConfig& b) {
  return a.kind == b.kind && a.device == b.device;
}

bool HasUplink(const PortConfig& port, const UplinkConfig& uplink) {
  return std::any_of(port.uplinks.begin(), port.uplinks.end(),
                     [&](const UplinkConfig& other) { return SameDevice(other, uplink); });
}

// "uplink 0 alone", "uplinks 0 and 1", "uplinks 0 to 3"
std::string UplinkIndices(int count) {
  if (count <= 1) return "uplink 0 alone";
  return absl::StrCat("uplinks 0 ", count == 2 ? "and " : "to ", count - 1);
}

std::string Plain(const absl::Status& status) {
  return std::string(status.message());
}

}  // namespace

std::string ChoiceGone(const std::string& uplink) {
  return absl::StrCat("the uplink chosen by hand, ", uplink,
                      ", is gone from the configuration; uplinks are chosen by preference again");
}

Port::Port(PortConfig config, FeatureContract contract, PortEnvironment& environment)
    : serial_(NextSerial()),
      config_(std::move(config)),
      contract_(std::move(contract)),
      env_(environment),
      uplinks_(environment.uplinks, contract_.features, [this] { Reconcile(); }),
      path_(config_.name, {environment.io, environment.pollers, environment.uplinks.mempools}, uplinks_, counters_,
            {[this](const PathSwitch::Report& report) { OnSwitched(report); },
             [this](int index, const std::string& why) { uplinks_.Report(index, Trouble::kError, why); },
             [this] { Reconcile(); }, [this] { return announcer_.mac(); }, [this] { announcer_.Hush(); }}),
      announcer_(environment.io, [this](const MacAddress& mac) { return path_.Announce(mac); }),
      timer_(environment.io) {
  uplinks_.SetConfig(config_);
  SetMac();
}

Port::~Port() {
  alive_.reset();
  EndSession();
  if (choosing_) choosing_(absl::CancelledError(absl::StrCat("port ", config_.name, ": removed meanwhile")));
  for (auto& settled : settling_) settled();
}

void Port::SetMac() {
  MacAddress mac{};
  if (ParseMac(config_.mac, mac.data())) announcer_.SetConfigured(mac);
}

void Port::EndSession() {
  path_.SetGuest(nullptr, nullptr);
  if (guest_) guest_->Retire();  // other ports' wires let go of it too
  link_.reset();                 // callbacks end here
}

std::function<void()> Port::PostReconcile() {
  return [&io = env_.io, weak = std::weak_ptr<Port*>(alive_)] {
    boost::asio::post(io, [weak] {
      if (auto alive = weak.lock()) (*alive)->Reconcile();
    });
  };
}

absl::Status Port::Attach(const std::string& socket, std::shared_ptr<IndexPageMap> index_page) {
  Detach();
  GuestEndpoint::Hooks hooks;
  hooks.changed = PostReconcile();
  hooks.synchronize = [&pollers = env_.pollers] { pollers.Synchronize(); };
  guest_ = std::make_shared<GuestEndpoint>(config_.name, config_.queue_pairs, std::move(index_page), std::move(hooks));
  guest_->set_mtu(config_.mtu);
  link_ = std::make_unique<GuestLink>(env_.io, guest_,
                                      [name = config_.name, socket, contract = contract_,
                                       guest = guest_](rte_vdpa_device* vdpa) -> absl::StatusOr<std::shared_ptr<void>> {
                                        auto driver = VhostDriver::Start(name, socket, contract, guest, vdpa);
                                        if (!driver.ok()) return driver.status();
                                        return std::shared_ptr<VhostDriver>(*std::move(driver));
                                      });
  path_.SetGuest(guest_, env_.keeper ? link_.get() : nullptr);
  attached_at_ = absl::Now();
  if (absl::Status status = link_->Start(); !status.ok()) {
    env_.events.Add(config_.name, "state", Plain(status), true);
    session_reason_ = Plain(status);
    return status;
  }
  PostReconcile()();
  return absl::OkStatus();
}

void Port::Detach() {
  EndSession();
  if (guest_) malformed_before_ += guest_->malformed();
  guest_.reset();
  announcer_.Forget();
  was_running_ = false;
}

void Port::OnSession(const SessionEvent& event) {
  if (session_ == SessionState::kWaiting && event.state != SessionState::kWaiting) ++sessions_;
  session_ = event.state;
  session_reason_ = event.reason;
  // The next session's guest may be another. Connections of ours that are taken up anew end no session.
  if (session_ == SessionState::kWaiting) announcer_.Forget();
  if (const auto told = postcopy_.Take(event, absl::Now()))
    env_.events.Add(config_.name, "migration", told->message, told->warning);
  if (config_.postcopy) PostReconcile()();
  NoteState();
  TellPeers();
}

void Port::Announce(const MacAddress& mac) {
  const Announcement made = announcer_.Asked(mac);
  const bool sent = made == Announcement::kSent || made == Announcement::kUnserved;
  if (!sent && std::exchange(told_announced_, mac) == mac) return;  // QEMU asks five times
  NoteAnnouncement(made, true);
}

// asked: by the front-end.
void Port::NoteAnnouncement(Announcement made, bool asked) {
  if (made == Announcement::kUnserved) return;
  const std::string guest = absl::StrCat("guest ", FormatMac(announcer_.mac().data()));
  const std::string path = PathText(path_.active());
  if (made == Announcement::kSent)
    return env_.events.Add(config_.name, "announce", absl::StrCat(guest, " announced through ", path));
  if (made == Announcement::kMade)
    return env_.events.Add(config_.name, "announce",
                           absl::StrCat(guest, " announced through ", path, " before it was given the guest's rings"));
  env_.events.Add(config_.name, "announce",
                  absl::StrCat(guest, " is not announced: ", path, " sends only what the guest sends; the network ",
                               "finds the guest by its next frame"),
                  asked);
}

void Port::SetConfig(const PortConfig& config) {
  config_ = config;
  SetMac();
  if (chosen_ >= 0 && !HasUplink(config_, uplinks_.at(chosen_).config)) {
    const std::string gone = DescribeUplink(uplinks_.at(chosen_).config);
    chosen_ = -1;
    if (choosing_)
      std::exchange(choosing_, nullptr)(absl::UnavailableError(
          absl::StrCat("port ", config_.name, ": ", gone, " was removed from the configuration meanwhile")));
    env_.events.Add(config_.name, "path", ChoiceGone(gone), true);
  }
  uplinks_.PrepareConfig(config_);
  config_due_ = true;
  Reconcile();
}

// Nobody uses what the new configuration is without, or there is nothing else to be used.
void Port::TakeConfig() {
  config_due_ = false;
  const int active = path_.active();
  const std::string cause = active >= 0 && uplinks_.at(active).leaving ? CauseOfLeaving(active) : "";
  const std::optional<UplinkConfig> by_hand = chosen();
  path_.Renumber(uplinks_.SetConfig(config_), cause);
  chosen_ = -1;
  if (by_hand) SetChosen(*by_hand);
  if (const int now = path_.active(); now >= 0 && now != active) {
    env_.events.Add(config_.name, "config",
                    absl::StrCat("the path in use, ", DescribeUplink(uplinks_.at(now).config), ", is uplink ", now,
                                 " now; it was ", active));
  }
  uplinks_.ForgetDropped();  // before others open: one may be on the same device
}

void Port::OnPeerChanged(const std::string& peer) {
  bool wired = false;
  for (int i = 0; i < uplinks_.size(); ++i) {
    const UplinkConfig& uplink = uplinks_.at(i).config;
    if (uplink.kind != UplinkKind::kPort || uplink.device != peer || uplinks_.at(i).leaving) continue;
    if (path_.active() == i) path_.Stop();
    uplinks_.Reopen(i, path_.guest_node());
    wired = true;
  }
  if (wired) Reconcile();
}

void Port::OnPeerGuest(const std::string& peer) {
  if (uplinks_.OnPeerGuest(peer)) Reconcile();
}

PeerGuest Port::guest_state() const {
  // The keeper knows of a guest that is about to be served (again).
  if (State() == "running" || (env_.keeper && session_ == SessionState::kRunning)) return PeerGuest::kRuns;
  return absl::Now() < attached_at_ + kGuestAppears ? PeerGuest::kUnknown : PeerGuest::kAbsent;
}

// Later: they act, and this port may be in the middle of it.
void Port::TellPeers() {
  const PeerGuest now = guest_state();
  if (std::exchange(told_peers_, now) == now) return;
  boost::asio::post(env_.io, [weak = std::weak_ptr<Port*>(alive_)] {
    if (auto alive = weak.lock()) (*alive)->env_.guest_changed((*alive)->config_.name);
  });
}

void Port::OnNetdev(const std::string& name, unsigned index, bool running) {
  if (uplinks_.OnNetdev(name, index, running)) Reconcile();
}

void Port::OnDeviceEvent() {
  if (uplinks_.OnDeviceEvent()) Reconcile();
}

void Port::PollHealth() {
  if (uplinks_.Poll(absl::Now(), path_.active(), path_.StalledMs(absl::Now()))) Reconcile();
}

void Port::CheckNetdevs() {
  if (uplinks_.CheckNetdevs()) Reconcile();
}

void Port::Forget() {
  path_.Stop();
  path_.Renumber(std::vector<int>(static_cast<size_t>(uplinks_.size()), -1), "");
  chosen_ = -1;
  uplinks_.ForgetAll();
}

void Port::Reconcile() {
  path_.OnGuestChanged();
  if (env_.hold) return;
  RehomeUplinks();
  uplinks_.OpenDue(absl::Now(), path_.guest_node());
  ChooseAndSwitch();
  if (config_due_ && !path_.switching()) {
    TakeConfig();
    uplinks_.OpenDue(absl::Now(), path_.guest_node());
    ChooseAndSwitch();
  }
  NoteState();
  TellPeers();
  if (choosing_ && !path_.switching()) {  // the guest went in the middle of it
    std::exchange(choosing_, nullptr)(
        path_.active() == chosen_
            ? absl::OkStatus()
            : absl::UnavailableError(absl::StrCat("port ", config_.name, ": the guest stopped meanwhile; try again")));
  }
  if (uplinks_.settled()) {
    for (auto& settled : std::exchange(settling_, {})) settled();
  }
  const bool guest_due = guest_state() == PeerGuest::kUnknown;
  ArmTimer(std::min(uplinks_.next(), guest_due ? attached_at_ + kGuestAppears : absl::InfiniteFuture()));
  env_.changed();
}

void Port::ChooseAndSwitch() {
  const bool running = guest_ && guest_->running();
  if (running && !was_running_) ++replays_;
  was_running_ = running;
  const bool arriving = config_.postcopy && postcopy_.PagesMayMiss();
  if (!path_.reconnecting()) uplinks_.SetGuest(running ? guest_->features() : 0, config_.queue_pairs, arriving);
  // A path that does not start is counted against its uplink, so there are as many rounds as uplinks at most.
  for (int round = 0; round <= uplinks_.size() && !path_.switching(); ++round) {
    const int active = path_.active();
    const int wanted = ChooseUplink(uplinks_.states(), active, chosen_);
    // A poller need not drop what the guest sends until TakeConfig has another uplink for it.
    if (config_due_ && wanted < 0 && path_.poller()) break;
    path_.Reconcile(wanted, Cause(wanted), active >= 0 && uplinks_.at(active).health.usable());
    if (path_.active() == wanted) break;
  }
  if (path_.switching()) return;
  uplinks_.CloseFailed(path_.active());
  if (path_.serving() && replay_ms_ == 0) replay_ms_ = MillisecondsSince(attached_at_);
  if (path_.active() < 0 && !config_due_ && uplinks_.settled() && !std::exchange(told_no_path_, true))
    env_.events.Add(config_.name, "path", "no uplink works; what the guest sends is dropped until one does", true);
  if (path_.active() >= 0) told_no_path_ = false;
}

// Where uplinks were opened before the guest's node was known: anew, so that their mbufs are local. Before the guest is
// served, and only those that cost no time.
void Port::RehomeUplinks() {
  if (env_.numa_nodes < 2 || path_.serving() || path_.switching() || !guest_ || !guest_->running()) return;
  const int node = PageNode(guest_->ring_address());
  for (int i = 0; node >= 0 && i < uplinks_.size(); ++i) {
    const UplinkSet::Item& item = uplinks_.at(i);
    if (OpensQuickly(item.config.kind) && item.open && item.open->lease->node() != node) uplinks_.Reopen(i, node);
  }
}

std::string Port::CauseOfLeaving(int index) const {
  const UplinkConfig& uplink = uplinks_.at(index).config;
  return absl::StrCat("the uplink in use, ", DescribeUplink(uplink), ", was ",
                      HasUplink(config_, uplink) ? "changed" : "removed", " by the configuration");
}

void Port::OnSwitched(const PathSwitch::Report& report) {
  const bool moved =
      (report.from >= 0 || report.recovery) && report.to >= 0 && (report.from != report.to || report.replaced);
  const bool running = guest_ && guest_->running();
  EventView::PathChange change{report.from, report.to, report.cause, absl::ToDoubleMilliseconds(report.gap),
                               report.lost};
  if (running && (report.from >= 0 || report.recovery))
    switches_.Add(absl::ToDoubleSeconds(report.gap), report.orderly && !report.recovery);
  std::string message = absl::StrCat("path ", report.to, " (", PathText(report.to), "): ", report.cause);
  if (report.from >= 0) {
    message = absl::StrFormat("path %d -> %d (%s): %s; %.2f ms", report.from, report.to, PathText(report.to),
                              report.cause, change.ms);
    if (report.lost > 0) absl::StrAppend(&message, ", ", report.lost, " frames in flight lost");
  } else if (report.recovery) {
    absl::StrAppendFormat(&message, "; without a path for %.2f ms", change.ms);
  }
  if (!report.refused.empty()) absl::StrAppend(&message, "; refused: ", report.refused);
  if (report.to >= 0 || report.from >= 0)
    env_.events.AddPath(config_.name, change, message, report.from >= 0 && !report.orderly);
  if (report.to >= 0) {
    told_announced_.reset();
    const bool asked = announcer_.due();
    const Announcement made = announcer_.Served(moved, report.from < 0 && guest_ && guest_->arrived());
    if (made != Announcement::kSent) NoteAnnouncement(made, asked);  // a lane's goes without saying
  }
  if (Done done = std::exchange(choosing_, nullptr)) {
    done(report.to == chosen_ ? absl::OkStatus()
                              : absl::FailedPreconditionError(absl::StrCat("port ", config_.name, ": ", report.refused,
                                                                           "; it is on ", PathText(report.to))));
    if (report.to != chosen_) chosen_ = -1;
  }
}

void Port::ChoosePath(int index, Done done) {
  const std::string port = absl::StrCat("port ", config_.name, ": ");
  if (choosing_ || config_due_ || path_.switching())
    return done(absl::UnavailableError(absl::StrCat(port, "a switch is under way; try again")));
  if (index >= uplinks_.size()) {
    return done(absl::OutOfRangeError(absl::StrCat(port, "no uplink ", index, "; it has ",
                                                   UplinkIndices(uplinks_.size()), "; name one that there is")));
  }
  if (index >= 0 && !uplinks_.Usable(index)) {
    const UplinkSet::Item& item = uplinks_.at(index);
    const std::string error = uplinks_.WhyNot(index);
    return done(absl::FailedPreconditionError(absl::StrCat(
        port, "uplink ", index,
        " does not work: ", error.empty() ? absl::StrCat(DescribeUplink(item.config), ": being opened") : error)));
  }
  chosen_ = index;
  const int active = path_.active();
  if (index < 0 || index == active) {
    Reconcile();
    return done(absl::OkStatus());
  }
  choosing_ = std::move(done);
  // It may still have to prove itself: by hand it is used all the same.
  path_.Reconcile(index, "chosen by hand", active >= 0 && uplinks_.Usable(active));
  Reconcile();
}

std::optional<UplinkConfig> Port::chosen() const {
  if (chosen_ < 0) return std::nullopt;
  return uplinks_.at(chosen_).config;
}

void Port::SetChosen(const UplinkConfig& uplink) {
  for (int i = 0; i < uplinks_.size(); ++i) {
    if (SameDevice(uplinks_.at(i).config, uplink)) chosen_ = i;
  }
}

void Port::WhenSettled(std::function<void()> done) {
  if (uplinks_.settled()) return done();
  settling_.push_back(std::move(done));
}

void Port::ArmTimer(absl::Time when) {
  if (when == absl::InfiniteFuture()) {
    timer_.cancel();
    return;
  }
  timer_.expires_after(absl::ToChronoMilliseconds(std::max(when - absl::Now(), absl::Milliseconds(1))));
  timer_.async_wait([weak = std::weak_ptr<Port*>(alive_)](boost::system::error_code error) {
    if (error) return;
    if (auto alive = weak.lock()) {
      (*alive)->uplinks_.Tick(absl::Now());
      (*alive)->Reconcile();
    }
  });
}

std::string Port::State() const {
  if (guest_ && (guest_->running() || path_.reconnecting())) return "running";
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
                    path_.poller() ? path_.poller()->index() : -1);
  } else if (!session_reason_.empty()) {
    absl::StrAppend(&message, ": ", session_reason_);
  }
  env_.events.Add(config_.name, "state", message);
}

}  // namespace everport
