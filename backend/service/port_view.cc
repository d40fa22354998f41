// What a port tells of itself, and of its path in an operator's words.
#include <algorithm>
#include <atomic>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/strip.h"
#include "absl/time/clock.h"
#include "backend/service/port.h"

namespace everport {

// Why `wanted` should be the path now.
std::string Port::Cause(int wanted) const {
  const int active = path_.active();
  if (active >= 0 && uplinks_.at(active).leaving) return CauseOfLeaving(active);
  if (active >= 0 && !uplinks_.at(active).health.usable()) return uplinks_.at(active).error;
  if (wanted < 0) return "no uplink works";
  if (active < 0) return PathReasonFor(wanted);
  return absl::StrCat("uplink ", wanted, wanted == chosen_ ? ", chosen by hand," : " is preferred and", " works");
}

std::string Port::PathText(int index) const {
  if (index < 0) return "none";
  const UplinkSet::Item& item = uplinks_.at(index);
  return absl::StrCat(DescribeUplink(item.config), ", ", item.open && item.open->offload ? "offload" : "relay");
}

// "" if it has nothing to prove.
std::string Port::ProvingText(int index) const {
  const HealthMonitor& health = uplinks_.at(index).health;
  if (health.state() != HealthMonitor::State::kProving) return "";
  const double seconds = absl::ToDoubleSeconds(health.trusted_at() - absl::Now());
  return absl::StrFormat("works again, trusted in %.1f s", std::max(0.0, seconds));
}

// "works again, trusted in 3.2 s", "is being opened", "does not work: CAUSE".
std::string Port::WhyNot(int index) const {
  const UplinkSet::Item& item = uplinks_.at(index);
  if (std::string proving = ProvingText(index); !proving.empty()) return proving;
  const std::string error = uplinks_.WhyNot(index);
  if (error.empty()) return item.open ? "works" : "is being opened";
  const std::string object = absl::StrCat(DescribeUplink(item.config), ": ");
  return absl::StrCat("does not work: ", absl::StripPrefix(error, object));
}

std::string Port::PathReasonFor(int index) const {
  if (index < 0) return chosen_ < 0 ? "no uplink works" : "no uplink works, nor the one chosen by hand";
  if (index == chosen_) return "chosen by hand";
  if (chosen_ >= 0) {
    return absl::StrCat("chosen by hand: uplink ", chosen_, ", ", DescribeUplink(uplinks_.at(chosen_).config),
                        ", which ", WhyNot(chosen_));
  }
  if (index == 0) return "first choice";
  return absl::StrCat("fallback: ", DescribeUplink(uplinks_.at(0).config), " ", WhyNot(0));
}

PortView Port::View() const {
  PortView view;
  view.config = config_;
  view.state = State();
  view.reason = session_reason_;
  const int active = path_.active();
  if (view.reason.empty() && active < 0 && view.state == "running" && uplinks_.size() > 0)
    view.reason = absl::StrCat("no uplink works: ", uplinks_.WhyNot(0));
  view.path.index = active;
  view.path.chosen = chosen_;
  view.path.reason = PathReasonFor(active);
  if (const std::string note = active >= 0 ? uplinks_.WireNote(active) : ""; !note.empty()) view.path.reason = note;
  if (active >= 0) {
    view.path.kind = std::string(UplinkKindName(uplinks_.at(active).config.kind));
    view.path.mode = uplinks_.at(active).open && uplinks_.at(active).open->offload ? "offload" : "relay";
  }
  for (int i = 0; i < uplinks_.size(); ++i) {
    const UplinkSet::Item& item = uplinks_.at(i);
    std::string error = uplinks_.WhyNot(i);
    if (error.empty()) error = uplinks_.WireNote(i);
    const char* state = i == active ? "active" : item.error.empty() ? (item.open ? "standby" : "opening") : "failed";
    view.uplinks.push_back({item.config, state, error, ProvingText(i)});
  }
  view.switches = switches_;
  view.postcopy = postcopy_.View(absl::Now());
  const auto load = [](const std::atomic<uint64_t>& counter) { return counter.load(std::memory_order_relaxed); };
  for (unsigned pair = 0; pair < config_.queue_pairs; ++pair) {
    const uint32_t enabled = guest_ ? guest_->enabled_vrings() : 0;
    view.queues.push_back({pair, (enabled >> (2 * pair) & 1) != 0, (enabled >> (2 * pair + 1) & 1) != 0,
                           load(counters_->queues[pair].rx_packets) + load(counters_->wired.queue_packets[pair]),
                           load(counters_->queues[pair].tx_packets)});
  }
  view.rx_packets = load(counters_->rx_packets) + load(counters_->wired.packets);
  view.tx_packets = load(counters_->tx_packets);
  view.rx_bytes = load(counters_->rx_bytes) + load(counters_->wired.bytes);
  view.tx_bytes = load(counters_->tx_bytes);
  view.drops_guest_ring_full = load(counters_->drops_guest_full);
  view.drops_uplink_full = load(counters_->drops_uplink_full);
  view.drops_malformed = load(counters_->drops_malformed) + malformed_before_ + (guest_ ? guest_->malformed() : 0);
  view.drops_no_path = load(counters_->drops_no_path);
  view.drops_refused = uplinks_.refused();
  view.drops = view.drops_guest_ring_full + view.drops_uplink_full + view.drops_malformed + view.drops_no_path +
               view.drops_refused;
  view.numa_node = path_.guest_node();
  view.poller = path_.poller() ? path_.poller()->index() : -1;
  view.negotiated_features = guest_ ? guest_->features() : 0;
  view.packed = view.negotiated_features >> kRingPacked & 1;
  view.ring_size = guest_ && guest_->running() ? guest_->ring_size() : 0;
  view.sessions = env_.keeper ? sessions_ : replays_;
  view.replays = replays_;
  return view;
}

PlacementRow Port::Placement() const {
  PlacementRow row;
  const int active = path_.active();
  const Poller* poller = path_.poller();
  row.port = config_.name;
  row.guest_node = path_.guest_node();
  const bool pooled = active >= 0 && uplinks_.at(active).open && uplinks_.at(active).open->lease;
  row.mempool_node = pooled ? uplinks_.at(active).open->lease->node() : -1;
  row.poller = poller ? poller->index() : -1;
  row.poller_node = poller ? poller->numa_node() : -1;
  row.note = poller              ? path_.placement().note
             : path_.offloaded() ? "not polled: the device serves the guest's rings"
                                 : "not polled: the guest is not running";
  return row;
}

}  // namespace everport
