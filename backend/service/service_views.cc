// What the daemon tells of itself.
#include <algorithm>
#include <atomic>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "backend/datapath/eal.h"
#include "backend/service/service.h"

namespace everport {

std::vector<PortView> Service::Ports() const {
  std::vector<PortView> views;
  for (const auto& port : ports_) views.push_back(ViewOf(*port));
  return views;
}

PortView Service::ViewOf(const everport::Port& port) const {
  PortView view = port.View();
  if (const DomainPort* const made = libvirt_.Find(view.config.name)) {
    view.origin = absl::StrCat("libvirt ", DomainText(made->domain));
  } else if (api_ports_.count(view.config.name)) {
    view.origin = "api";
  }
  if (unsaved_.count(view.config.name)) view.path.warning = ChoiceNotSaved();
  return view;
}

std::string Service::ChoiceNotSaved() const {
  return absl::StrCat("the path chosen by hand holds until everportd ends, and is not saved: ",
                      choices_error_.message());
}

absl::StatusOr<PortView> Service::Port(const std::string& name) const {
  if (everport::Port* port = FindPort(name)) return ViewOf(*port);
  return absl::NotFoundError(
      absl::StrCat("port ", name, ": does not exist; `everportctl ports` lists those there are"));
}

std::vector<PollerView> Service::Pollers() const {
  std::vector<PollerView> views;
  for (const auto& poller : pollers_.pollers()) {
    const PollerCounters& counters = poller->counters();
    const auto load = [](const std::atomic<uint64_t>& counter) { return counter.load(std::memory_order_relaxed); };
    PollerView view;
    view.index = poller->index();
    view.cpus = poller->cpus();
    view.numa_node = poller->numa_node();
    view.ports = poller->lanes();
    view.busy_ratio = samples_[poller->index()].busy;
    view.loops = load(counters.loops);
    view.sleeps = load(counters.sleeps);
    view.wakeups = load(counters.wakeups);
    views.push_back(std::move(view));
  }
  return views;
}

std::vector<PlacementRow> Service::Placement() const {
  std::vector<PlacementRow> rows;
  for (const auto& port : ports_) rows.push_back(port->Placement());
  return rows;
}

HealthView Service::Health() const {
  HealthView health;
  health.keeper = !keeper_ ? "off" : keeper_->connected() ? "connected" : "not connected: " + keeper_->trouble();
  health.ready = !keeper_ || keeper_->connected();
  if (!health.ready) health.problems.push_back("keeper: " + keeper_->trouble());
  if (!store_error_.ok()) health.problems.push_back(std::string(store_error_.message()));
  for (const StateStore::LeftOut& port : left_out_)
    health.problems.push_back(absl::StrCat("port ", port.name, ": saved, and left out: ", port.why,
                                           "; then run: systemctl reload everportd; or everportctl port remove ",
                                           port.name));
  for (const std::string& name : unsaved_)
    health.problems.push_back(absl::StrCat("port ", name, ": ", ChoiceNotSaved()));
  if (!reload_error_.empty())
    health.problems.push_back(absl::StrCat("configuration: ", reload_error_, "; then run: systemctl reload everportd"));
  if (const auto listener = Listener()) {
    health.problems.insert(health.problems.end(), listener->problems.begin(), listener->problems.end());
  }
  if (const auto libvirt = libvirt_.View()) {
    health.libvirt = libvirt->connected ? "connected" : "not connected: " + libvirt->trouble;
  }
  for (std::string& problem : libvirt_.Problems()) health.problems.push_back(std::move(problem));
  if (!EalHasHugepages() && config_.daemon.memory != DaemonConfig::Memory::kOrdinary)
    health.problems.push_back("memory: ordinary pages, which are slower; reserve hugepages and restart everportd");
  const auto slow = devices_.slow();
  bool slow_told = !slow;  // by its uplink, which may have been removed
  for (const auto& port : ports_) {
    const PortView view = port->View();
    for (size_t i = 0; i < view.uplinks.size(); ++i) {
      if (view.uplinks[i].error.empty()) continue;
      slow_told |= slow && view.config.name == slow->about.port &&
                   absl::StartsWith(view.uplinks[i].error, absl::StrCat(slow->about.what, ": being opened for "));
      const bool by_hand = view.path.chosen == static_cast<int>(i);
      health.problems.push_back(absl::StrCat(
          "port ", view.config.name, ": uplink ", i, by_hand ? ", chosen by hand: " : ": ", view.uplinks[i].error,
          by_hand ? absl::StrCat("; or end the choice: everportctl path ", view.config.name, " auto") : ""));
    }
  }
  if (!slow_told) health.problems.push_back(absl::StrCat("port ", slow->about.port, ": ", DescribeSlow(*slow)));
  health.startup = Startup();
  return health;
}

// As it is until the start has ended, then as it was.
StartupView Service::Startup() const {
  StartupView startup = startup_;
  if (startup.total_ms > 0) return startup;
  for (const auto& port : ports_) {
    startup.uplinks_ms += port->uplinks_ms();
    startup.replay_ms = std::max(startup.replay_ms, port->replay_ms());
  }
  return startup;
}

std::string Service::Summary() const {
  const auto running = std::count_if(ports_.begin(), ports_.end(), [](const auto& port) { return port->serving(); });
  return absl::StrCat(ports_.size(), ports_.size() == 1 ? " port, " : " ports, ", running, " running");
}

}  // namespace everport
