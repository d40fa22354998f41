#include "backend/service/uplink_set.h"

#include <net/if.h>

#include <algorithm>
#include <filesystem>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/time/clock.h"
#include "backend/host/pci_device.h"
#include "backend/service/offload_fit.h"
#include "migration/feature_contract.h"

namespace everport {
namespace {

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
    case UplinkKind::kVirtioUser:
      return if_nametoindex(uplink.device.c_str());
    default:
      return 0;
  }
}

// Whether the network device is the PF of the VF that the uplink is: while that is down, its VFs cannot be opened.
bool IsPfOf(const UplinkConfig& uplink, const std::string& netdev) {
  if (uplink.kind != UplinkKind::kVf) return false;
  const auto device = ReadPciDevice("", uplink.device);
  return device.ok() && device->pf_interface == netdev;
}

// Whether somebody took it out of the bridge that it was put into, or took the bridge away: then it is up, and leads
// nowhere. One that was moved to another bridge was meant to be.
bool OutOfItsBridge(const UplinkConfig& uplink) {
  if (uplink.bridge.empty()) return false;
  std::error_code error;
  return !std::filesystem::exists(
      std::filesystem::symlink_status(absl::StrCat("/sys/class/net/", uplink.device, "/master"), error));
}

constexpr char kGone[] =
    "the device has gone; it is used again as soon as it is back: see `ip link`, or take the uplink out of the "
    "configuration";

// What to look at where a device's driver tells of a trouble; each is tried again by itself.
std::string Mend(UplinkKind kind, Trouble trouble) {
  switch (trouble) {
    case Trouble::kNone:
      return "";
    case Trouble::kLinkDown:
      return kind == UplinkKind::kVdev ? "start what is at its other end, or set up what its arguments name"
             : kind == UplinkKind::kVf ? "set its PF up, and look after that one's cable"
                                       : "look after its cable or what is at its other end";
    case Trouble::kStalled:
      return "it is opened anew; if it stalls again, see the kernel's log, and whether what is at its other end works";
    case Trouble::kNeedsReset:
      return "it is opened anew; if that does not help, see the kernel's log";
    case Trouble::kRemoved:
      return "it is used again as soon as it is back; else take the uplink out of the configuration";
    case Trouble::kError:
      return "it is opened anew; if that does not help, see everportd's and the kernel's log";
  }
  return "";
}

std::string NoGuestAt(const std::string& port) {
  return absl::StrCat("port ", port, " has no running guest; start it, or see: everportctl port show ", port);
}

constexpr uint64_t kStallMs = 50;

bool Logs(uint64_t features) {
  return features >> kVhostLogAll & 1;
}

}  // namespace

std::string DescribeSlow(const DeviceWorker::Busy& busy) {
  return absl::StrCat(busy.about.what, ": being ", busy.about.opening ? "opened" : "closed", " for ",
                      absl::ToInt64Seconds(absl::Now() - busy.since),
                      " s: its driver does not return, and the devices of other uplinks wait for it; mend what it "
                      "waits for, or take it out of the configuration and run: systemctl restart everportd");
}

UplinkSet::UplinkSet(UplinkEnvironment& environment, uint64_t contract_features, std::function<void()> changed)
    : env_(environment), contract_features_(contract_features), changed_(std::move(changed)) {}

UplinkSet::~UplinkSet() {
  alive_.reset();
  for (auto* items : {&items_, &dropped_}) {
    for (Item& item : *items) Close(std::move(item.open), item.config);
  }
}

// Where each uplink is in the next configuration, -1: it is not.
std::vector<int> UplinkSet::Moved(const PortConfig& next) const {
  std::vector<int> moved(items_.size(), -1);
  for (size_t i = 0; i < next.uplinks.size(); ++i) {
    size_t same = 0;
    while (same < items_.size() && (moved[same] >= 0 || !(items_[same].config == next.uplinks[i]))) ++same;
    if (same < items_.size()) moved[same] = static_cast<int>(i);
  }
  return moved;
}

void UplinkSet::PrepareConfig(const PortConfig& next) {
  const std::vector<int> moved = Moved(next);
  for (size_t i = 0; i < items_.size(); ++i) items_[i].leaving = moved[i] < 0;
}

std::vector<int> UplinkSet::SetConfig(const PortConfig& port) {
  std::vector<int> moved = Moved(port);
  port_ = port;
  std::vector<Item> before = std::exchange(items_, {});
  for (size_t i = 0; i < port.uplinks.size(); ++i) {
    const auto same = std::find(moved.begin(), moved.end(), static_cast<int>(i));
    if (same != moved.end()) {
      items_.push_back(std::move(before[static_cast<size_t>(same - moved.begin())]));
    } else {
      items_.push_back({.config = port.uplinks[i],
                        .health = HealthMonitor(absl::Milliseconds(port.failback_delay_ms)),
                        .told = {},
                        .error = {},
                        .open = nullptr,
                        .serial = NextSerial()});
    }
  }
  for (size_t i = 0; i < before.size(); ++i) {
    if (moved[i] < 0) dropped_.push_back(std::move(before[i]));
  }
  for (int i = 0; i < size(); ++i) LookAtWire(i);  // there may be another uplink beside it now, or none
  return moved;
}

void UplinkSet::Forget(Item& item) {
  Close(std::move(item.open), item.config);
  if (absl::Status status = ForgetUplink(port_, item.config); !status.ok())
    env_.events.Add(port_.name, "config", std::string(status.message()), true);
}

void UplinkSet::ForgetDropped() {
  for (Item& item : std::exchange(dropped_, {})) Forget(item);
}

void UplinkSet::ForgetAll() {
  for (Item& item : std::exchange(items_, {})) Forget(item);
}

std::vector<HealthMonitor::State> UplinkSet::states() const {
  std::vector<HealthMonitor::State> states;
  for (const Item& item : items_) {
    const bool unusable = (item.unfit || item.leaving) && item.health.usable();
    states.push_back(unusable ? HealthMonitor::State::kTroubled : item.health.state());
  }
  return states;
}

bool UplinkSet::settled() const {
  return env_.devices.slow() || std::all_of(items_.begin(), items_.end(), [](const Item& item) { return item.tried; });
}

std::string UplinkSet::WhyNot(int index) const {
  const Item& item = at(index);
  const auto slow = item.health.state() == HealthMonitor::State::kOpening ? env_.devices.slow() : std::nullopt;
  if (!slow) return item.error;
  if (slow->about.serial == item.serial) return DescribeSlow(*slow);
  return absl::StrCat(DescribeUplink(item.config), ": not opened yet: it waits for ", slow->about.what, " of port ",
                      slow->about.port, ", which has been ", slow->about.opening ? "opened" : "closed", " for ",
                      absl::ToInt64Seconds(absl::Now() - slow->since), " s");
}

void UplinkSet::OpenDue(absl::Time now, int node) {
  for (Item& item : items_) {
    if (!item.open && !item.leaving && item.health.OpeningDue(now)) Open(item, node);
  }
}

void UplinkSet::Open(Item& item, int node) {
  item.health.OnOpening();
  const auto asked = [&io = env_.io, weak = std::weak_ptr<UplinkSet*>(alive_)] {  // a driver's thread has news
    boost::asio::post(io, [weak] {
      auto alive = weak.lock();
      if (alive && (*alive)->Poll(absl::Now(), -1, 0)) (*alive)->changed_();
    });
  };
  const auto open = [port = port_, config = item.config, node, &mempools = env_.mempools, &peers = env_.find_guest,
                     asked] { return OpenUplink(port, config, node, mempools, peers, asked); };
  if (item.config.kind == UplinkKind::kVdpa && !env_.keeper) {
    return OnOpened(item, absl::FailedPreconditionError(absl::StrCat(
                              DescribeUplink(item.config), ": without the keeper the guest would lose its link ",
                              "whenever the device is attached; set keeper = true, or use another uplink")));
  }
  if (OpensQuickly(item.config.kind)) return OnOpened(item, open());
  env_.devices.Run<absl::StatusOr<std::unique_ptr<Uplink>>>(
      open,
      [weak = std::weak_ptr<UplinkSet*>(alive_), serial = item.serial,
       closing = DeviceWorker::About{port_.name, DescribeUplink(item.config), 0, false},
       &devices = env_.devices](absl::StatusOr<std::unique_ptr<Uplink>> uplink) {
        const auto alive = weak.lock();
        if (Item* const opened = alive ? (*alive)->Find(serial) : nullptr) {
          (*alive)->OnOpened(*opened, std::move(uplink));
          (*alive)->changed_();
        } else if (uplink.ok()) {  // it, or the port, has gone meanwhile
          devices.Run([late = std::shared_ptr<Uplink>(std::move(*uplink))]() mutable { late.reset(); }, closing);
        }
      },
      {.port = port_.name, .what = DescribeUplink(item.config), .serial = item.serial});
}

UplinkSet::Item* UplinkSet::Find(uint64_t serial) {
  const auto item = std::find_if(items_.begin(), items_.end(), [&](const Item& i) { return i.serial == serial; });
  return item == items_.end() ? nullptr : &*item;
}

void UplinkSet::OnOpened(Item& item, absl::StatusOr<std::unique_ptr<Uplink>> uplink) {
  const int index = static_cast<int>(&item - items_.data());
  item.tried = true;
  const absl::Time now = absl::Now();
  if (uplink.ok()) {
    opening_ms_ += (*uplink)->opening_ms;
    item.open = std::move(*uplink);
    item.ifindex = DeviceIndex(item.config);
    item.health.OnOpened(now);
    item.error.clear();
    LookAtLink(index);
    LookAtWire(index);
    NoteLacks(index);
    if (item.health.usable()) item.told.clear();
    if (item.health.state() == HealthMonitor::State::kProving) TellWell(index);
    return;
  }
  item.health.OnOpenFailed(now);
  std::string error(uplink.status().message());
  if (error == item.error) return;
  env_.events.Add(port_.name, "path", absl::StrCat("uplink ", index, " failed: ", error), true);
  item.error = std::move(error);
}

void UplinkSet::TellWell(int index) {
  const Item& item = at(index);
  env_.events.Add(port_.name, "path",
                  absl::StrCat("uplink ", index, " (", DescribeUplink(item.config), ") is well again; trusted in ",
                               absl::FormatDuration(item.health.hold())));
}

// Told before a guest comes: it may take what the device has not, and is not served by it then (SetGuest).
void UplinkSet::NoteLacks(int index) {
  Item& item = items_[static_cast<size_t>(index)];
  const uint64_t lacks = item.open->offload ? item.open->offload->Lacks(contract_features_, port_.queue_pairs) : 0;
  if (std::exchange(item.lacks, lacks) == lacks || lacks == 0) return;
  env_.events.Add(
      port_.name, "path",
      absl::StrCat("uplink ", index, " (", DescribeUplink(item.config), "): the device lacks ",
                   absl::StrJoin(FeatureNames(lacks), ", "),
                   " of the port's contract; a guest that negotiates any of it is served by another uplink"));
}

// A kernel device may be down when it is opened.
void UplinkSet::LookAtLink(int index) {
  const UplinkKind kind = at(index).config.kind;
  if (kind != UplinkKind::kAfPacket && kind != UplinkKind::kAfXdp) return;
  if (const auto link = DeviceWatch::Get(at(index).config.device); link.ok())
    OnNetdev(link->name, link->index, link->running);
}

// A wire to nobody is as an uplink without link; but where there is no other, the guest's frames may as well go there.
bool UplinkSet::LookAtWire(int index) {
  const Item& item = at(index);
  if (item.config.kind != UplinkKind::kPort || !item.open || !item.health.open()) return false;
  const PeerGuest guest = size() == 1 ? PeerGuest::kRuns : env_.guest_of(item.config.device);
  if (guest == PeerGuest::kUnknown) return false;
  const Trouble trouble = guest == PeerGuest::kRuns ? Trouble::kNone : Trouble::kLinkDown;
  return Condition(index, trouble, absl::Now(), NoGuestAt(item.config.device));
}

bool UplinkSet::OnPeerGuest(const std::string& peer) {
  bool changed = false;
  for (int i = 0; i < size(); ++i) {
    if (at(i).config.device == peer) changed |= LookAtWire(i);
  }
  return changed;
}

std::string UplinkSet::WireNote(int index) const {
  const UplinkConfig& uplink = at(index).config;
  const bool only = size() == 1 && uplink.kind == UplinkKind::kPort && at(index).open;
  return only && env_.guest_of(uplink.device) == PeerGuest::kAbsent ? NoGuestAt(uplink.device) : "";
}

bool UplinkSet::Condition(int index, Trouble trouble, absl::Time now, const std::string& what) {
  Item& item = items_[static_cast<size_t>(index)];
  const HealthMonitor::State before = item.health.state();
  const Trouble trouble_before = item.health.trouble();
  item.health.OnCondition(trouble, now);
  item.health.Tick(now);
  if (item.health.state() == before && item.health.trouble() == trouble_before) return false;
  if (trouble == Trouble::kNone) {
    item.error.clear();
    item.told.clear();
    if (before == HealthMonitor::State::kTroubled) TellWell(index);
    return true;
  }
  const bool wire = item.config.kind == UplinkKind::kPort;  // what is said of one names the port
  item.error = wire ? what : absl::StrCat(DescribeUplink(item.config), ": ", what);
  if (item.told != item.error)
    env_.events.Add(port_.name, "path", absl::StrCat("uplink ", index, " failed: ", item.error), true);
  item.told = item.error;
  return true;
}

bool UplinkSet::Poll(absl::Time now, int active, uint64_t stalled_ms) {
  bool changed = false;
  for (int i = 0; i < size(); ++i) {
    const Item& item = at(i);
    if (!item.open || !item.health.open()) continue;
    Trouble trouble = item.open->trouble();
    const bool told = item.ifindex != 0 || item.config.kind == UplinkKind::kPort;  // OnNetdev, OnPeerGuest tell its end
    if (trouble == Trouble::kNone && told && item.health.trouble() == Trouble::kLinkDown) trouble = Trouble::kLinkDown;
    const bool can_stall = item.open->offload || item.open->endpoint->backpressure();
    if (trouble == Trouble::kNone && i == active && can_stall && stalled_ms >= kStallMs) trouble = Trouble::kStalled;
    changed |= Condition(i, trouble, now,
                         absl::StrCat(std::string(TroubleText(trouble)), "; ", Mend(item.config.kind, trouble)));
  }
  return changed;
}

bool UplinkSet::OnNetdev(const std::string& name, unsigned index, bool running) {
  bool changed = false;
  // The announcement may be old: a device that was just made was down a moment ago, or is made anew already.
  const bool doubtful = std::any_of(items_.begin(), items_.end(), [&](const Item& i) {
    return i.config.device == name && (!running || (i.ifindex != 0 && i.ifindex != index));
  });
  if (doubtful) {
    const auto link = DeviceWatch::Get(name);
    index = link.ok() ? link->index : 0;
    running = link.ok() && link->running;
  }
  for (int i = 0; i < size(); ++i) {
    Item& item = items_[static_cast<size_t>(i)];
    if (!item.health.open() && index != 0 &&
        (item.config.device == name || item.config.bridge == name || (running && IsPfOf(item.config, name)))) {
      item.health.OnDeviceEvent(absl::Now());
      changed = true;
    }
    if (item.ifindex == 0 || item.config.device != name || !item.health.open()) continue;
    if (index != item.ifindex) {
      changed |= Condition(i, Trouble::kRemoved, absl::Now(), kGone);
    } else if (running && OutOfItsBridge(item.config)) {
      changed |= Condition(i, Trouble::kError, absl::Now(),
                           absl::StrCat("it is not in bridge ", item.config.bridge,
                                        " any more, and is put there again as soon as that is there; if it is gone: "
                                        "ip link add ",
                                        item.config.bridge, " type bridge && ip link set ", item.config.bridge, " up"));
    } else {
      changed |= Condition(i, running ? Trouble::kNone : Trouble::kLinkDown, absl::Now(),
                           absl::StrCat("the device is down or has no carrier; run: ip link set ", name,
                                        " up, and look after its cable or what is at its other end"));
    }
  }
  return changed;
}

bool UplinkSet::CheckNetdevs() {
  bool changed = false;
  for (int i = 0; i < size(); ++i) {
    const Item& item = at(i);
    if (item.ifindex == 0 || !item.health.open() || DeviceIndex(item.config) == item.ifindex) continue;
    changed |= Condition(i, Trouble::kRemoved, absl::Now(), kGone);
  }
  return changed;
}

bool UplinkSet::OnDeviceEvent() {
  const absl::Time now = absl::Now();
  bool due = false;
  for (Item& item : items_) {
    item.health.OnDeviceEvent(now);
    due |= item.health.state() == HealthMonitor::State::kClosed;
  }
  return due;
}

void UplinkSet::SetGuest(uint64_t features, uint16_t queue_pairs, bool arriving) {
  guest_features_ = features;
  for (int i = 0; i < size(); ++i) {
    Item& item = items_[static_cast<size_t>(i)];
    if (!item.open || !item.open->offload) {
      item.unfit = false;
      continue;
    }
    const absl::Status covers = Serves(*item.open->offload, {features, queue_pairs, arriving});
    if (covers.ok() != item.unfit) continue;
    item.unfit = !covers.ok();
    item.error = std::string(covers.message());
    if (item.unfit)
      env_.events.Add(port_.name, "path", absl::StrCat("uplink ", i, " not used: ", item.error),
                      !Logs(features) && !arriving);
  }
}

void UplinkSet::Tick(absl::Time now) {
  for (Item& item : items_) item.health.Tick(now);
}

bool UplinkSet::Usable(int index) const {
  return at(index).open && at(index).health.usable() && !at(index).unfit && !at(index).leaving;
}

void UplinkSet::Report(int index, Trouble trouble, const std::string& what) {
  Condition(index, trouble, absl::Now(), what);
}

void UplinkSet::Reopen(int index, int node) {
  Item& item = items_[static_cast<size_t>(index)];
  if (item.health.state() == HealthMonitor::State::kOpening) return;
  Close(std::move(item.open), item.config);
  item.health.OnClosed(absl::Now());
  Open(item, node);
}

void UplinkSet::CloseFailed(int active) {
  for (int i = 0; i < size(); ++i) {
    Item& item = items_[static_cast<size_t>(i)];
    if (item.open && i != active && !item.health.open()) Close(std::move(item.open), item.config);
  }
}

uint64_t UplinkSet::refused() const {
  uint64_t refused = refused_before_;
  for (const Item& item : items_) {
    if (item.open && item.open->endpoint) refused += item.open->endpoint->refused();
  }
  return refused;
}

void UplinkSet::Close(std::unique_ptr<Uplink> uplink, const UplinkConfig& config) {
  if (uplink && uplink->endpoint) refused_before_ += uplink->endpoint->refused();
  if (!uplink || OpensQuickly(config.kind)) return;
  env_.devices.Run([gone = std::shared_ptr<Uplink>(std::move(uplink))]() mutable { gone.reset(); },
                   {.port = port_.name, .what = DescribeUplink(config), .opening = false});
}

absl::Time UplinkSet::next() const {
  absl::Time next = absl::InfiniteFuture();
  for (const Item& item : items_) {
    if (!item.leaving) next = std::min(next, item.health.next());
  }
  return next;
}

bool UplinkSet::needs_polling() const {
  return std::any_of(items_.begin(), items_.end(), [](const Item& item) { return NeedsPolling(item.config.kind); });
}

}  // namespace everport
