// Ports that come, change and go: by the API, by the configuration file.
#include <algorithm>
#include <boost/asio/post.hpp>
#include <utility>

#include "absl/strings/str_cat.h"
#include "backend/config/check.h"
#include "backend/service/service.h"

namespace everport {

bool Service::SocketServed(const std::string& socket) const {
  return std::any_of(ports_.begin(), ports_.end(), [&](const auto& port) { return port->config().socket == socket; });
}

// Beside the ports that there are, in this daemon as it was started. A port of the file has been checked with the file.
absl::Status Service::CheckFits(const PortConfig& port) const {
  if (port.postcopy && !config_.daemon.keeper) {
    return absl::InvalidArgumentError(absl::StrCat("port ", port.name, ": postcopy: ", config::kPostcopyNeedsKeeper));
  }
  std::vector<PortConfig> together = Configs();
  together.push_back(port);
  return CheckPorts(together, UnknownPeer::kAllow);
}

void Service::AddPort(PortConfig port, Done done) {
  if (!store_error_.ok()) return done(absl::FailedPreconditionError(store_error_.message()));
  if (absl::Status status = CheckPort(port, "port " + port.name, config_.contracts); !status.ok()) return done(status);
  if (FindPort(port.name)) {
    return done(absl::AlreadyExistsError(
        absl::StrCat("port ", port.name, ": exists already; remove it first, or choose another name")));
  }
  if (const StateStore::LeftOut* const there = FindLeftOut(port.name)) {
    return done(absl::AlreadyExistsError(absl::StrCat("port ", port.name, ": is saved already, and left out: ",
                                                      there->why, "; mend that, or remove the port first")));
  }
  if (absl::Status status = CheckFits(port); !status.ok()) return done(status);
  Create(port);
  api_ports_.insert(port.name);
  if (absl::Status status = SaveApiPorts(); !status.ok()) {
    Drop(port.name);
    return done(status);
  }
  events_.Add(port.name, "config", "added by the API");
  Connect(port.name, [this, name = port.name, serial = ports_.back()->serial(), done](absl::Status status) {
    everport::Port* const added = FindPort(name);
    if (!status.ok() && added && added->serial() == serial) {
      Drop(name);
      (void)SaveApiPorts();  // it could be saved a moment ago; an old entry is reported at the next start
    }
    // Not before its uplinks have been tried, so that the answer tells whether one works.
    everport::Port* const tried = FindPort(name);
    if (!tried) return done(status);
    boost::asio::post(io_, [this, name, serial = tried->serial(), done, status] {
      everport::Port* const there = FindPort(name);
      if (!there || there->serial() != serial) return done(status);
      there->WhenSettled([done, status] { done(status); });
    });
  });
}

void Service::RemovePort(const std::string& name, Done done) {
  if (FindLeftOut(name)) return done(ForgetLeftOut(name));
  if (!FindPort(name))
    return done(absl::NotFoundError(
        absl::StrCat("port ", name, ": does not exist; `everportctl ports` lists those there are")));
  const DomainPort* const of_domain = libvirt_.Find(name);
  if (!of_domain && !api_ports_.count(name)) {
    return done(absl::FailedPreconditionError(absl::StrCat("port ", name, ": is in the configuration file ",
                                                           config_path_, "; take it out there and reload")));
  }
  if (!of_domain && !store_error_.ok()) return done(absl::FailedPreconditionError(store_error_.message()));
  const std::string whose = of_domain ? absl::StrCat("; it was that of ", DomainText(of_domain->domain),
                                                     ": none comes in its place until no domain has that socket")
                                      : "";
  const bool saved_by_us = !of_domain;
  libvirt_.Release(PortConfig(FindPort(name)->config()));
  Drop(name);
  NoteChoice(name, std::nullopt);
  events_.Add(name, "config", absl::StrCat("removed by the API", whose));
  done(saved_by_us ? SaveApiPorts() : absl::OkStatus());
}

std::vector<PortConfig> Service::OtherPorts() const {
  std::vector<PortConfig> configs;
  for (const auto& port : ports_) {
    if (!libvirt_.Find(port->config().name)) configs.push_back(port->config());
  }
  for (const StateStore::LeftOut& port : left_out_) {
    PortConfig& config = configs.emplace_back();
    config.name = port.name;
    config.socket = port.socket;
  }
  return configs;
}

// After a start, and when it has been away, the keeper has yet to say what sessions there are.
bool Service::MayHaveGuest(const std::string& name) const {
  const everport::Port* const port = FindPort(name);
  return port && ((keeper_ && !sessions_known_) || port->View().state != "waiting");
}

void Service::MakeDomainPort(const PortConfig& port) {
  Create(port);
  Connect(port.name, [](absl::Status) {});  // what is amiss, the port says
}

void Service::RemoveDomainPort(const std::string& name) {
  Drop(name);
  NoteChoice(name, std::nullopt);
}

// Lets go of the guest, then of the uplinks, then of the session.
void Service::Drop(const std::string& name) {
  auto found =
      std::find_if(ports_.begin(), ports_.end(), [&](const auto& port) { return port->config().name == name; });
  if (found == ports_.end()) return;
  (*found)->Forget();
  std::unique_ptr<everport::Port> gone = std::move(*found);  // whom it tells of its end may look at the others
  ports_.erase(found);
  api_ports_.erase(name);
  PeersChanged(name);
  // Before the keeper closes the connection: librte_vhost's event thread would then connect anew, and its reconnecting
  // thread use the socket's record after rte_vhost_driver_unregister has freed it (seen in DPDK 22.11).
  gone.reset();
  EndSession(name);
}

void Service::EndSession(const std::string& name) {
  if (keeper_ && keeper_->connected()) {
    keeper_->Send(RemoveRequest{name}, [this, name](absl::StatusOr<KeeperClient::Answer> answer) {
      if (!answer.ok()) events_.Add(name, "keeper", std::string(answer.status().message()), true);
    });
  }
}

// It holds for this run whether or not it can be saved.
void Service::NoteChoice(const std::string& port, const std::optional<UplinkConfig>& uplink) {
  StateStore::Choices next = choices_;
  next.erase(port);
  if (uplink) next[port] = {.kind = uplink->kind, .device = uplink->device, .bridge = {}};
  if (next == choices_) return;
  choices_ = std::move(next);
  const bool first = unsaved_.insert(port).second;
  SaveChoices();
  if (first && !choices_error_.ok()) events_.Add(port, "config", ChoiceNotSaved(), true);
}

void Service::SaveChoices() {
  choices_error_ = store_.SaveChoices(choices_);
  if (choices_error_.ok()) unsaved_.clear();
}

absl::Status Service::SaveApiPorts() {
  std::vector<PortConfig> ports;
  for (const auto& port : ports_) {
    if (api_ports_.count(port->config().name)) ports.push_back(port->config());
  }
  return store_.Save(ports, left_out_);
}

const StateStore::LeftOut* Service::FindLeftOut(const std::string& name) const {
  const auto found = std::find_if(left_out_.begin(), left_out_.end(),
                                  [&](const StateStore::LeftOut& port) { return port.name == name; });
  return found == left_out_.end() ? nullptr : &*found;
}

absl::Status Service::ForgetLeftOut(const std::string& name) {
  std::erase_if(left_out_, [&](const StateStore::LeftOut& port) { return port.name == name; });
  const bool stands = FindPort(name);  // the configuration file's may have that name
  if (!stands) {
    EndSession(name);
    NoteChoice(name, std::nullopt);
  }
  events_.Add(name, "config",
              stands ? "the saved port of this name, which was left out, was removed by the API; the port itself stands"
                     : "removed by the API");
  return SaveApiPorts();
}

// What they lacked may have come with the configuration.
void Service::TakeInLeftOut() {
  for (StateStore::LeftOut& saved : std::exchange(left_out_, {})) {
    const auto port = PortFromJson(saved.json, &config_.contracts);
    if (!port.ok() || !CheckFits(*port).ok()) {
      left_out_.push_back(std::move(saved));
      continue;
    }
    Create(*port);
    api_ports_.insert(port->name);
    events_.Add(port->name, "config", "the saved port is served again");
    Connect(port->name, [](absl::Status) {});
  }
}

void Service::Reload() {
  absl::StatusOr<Config> next = LoadConfig(config_path_);
  if (!next.ok()) return RefuseReload(FirstFault(next.status()));
  std::vector<PortConfig> together = next->ports;
  for (const auto& port : ports_) {
    const std::string& name = port->config().name;
    if (api_ports_.count(name) || libvirt_.Find(name)) together.push_back(port->config());
  }
  if (absl::Status status = CheckPorts(together, UnknownPeer::kAllow); !status.ok()) {
    return RefuseReload(absl::StrCat(config_path_, ": with the ports that the API added",
                                     libvirt_.made().empty() ? "" : " and those of libvirt's domains", ": ",
                                     std::string(status.message())));
  }
  if (absl::Status status = CheckContractsKept(Configs(), config_.contracts, together, next->contracts); !status.ok())
    return RefuseReload(absl::StrCat(config_path_, ": ", std::string(status.message())));
  reload_error_.clear();
  config_.contracts = std::move(next->contracts);
  ReloadDaemon(next->daemon);
  Apply(next->ports);
  TakeInLeftOut();
  config_.ports = std::move(next->ports);
  if (next->libvirt != config_.libvirt) events_.Add("", "config", "[libvirt] is another than before");
  config_.libvirt = std::move(next->libvirt);
  libvirt_.Configure(config_.libvirt);
  libvirt_.LookAgain();  // a domain may have an interface that was a port of the file
}

// The listener's files may be new ones whatever the configuration says. Ports do not wait for what is wrong with them.
void Service::ReloadDaemon(const DaemonConfig& next) {
  listener_->Configure(next.listen);
  config_.daemon.listen = next.listen;
  if (next != config_.daemon) {
    events_.Add("", "config",
                absl::StrCat(config_path_,
                             ": changes of [daemon] take effect with a restart, but for those of [daemon.listen]"),
                true);
  }
}

void Service::RefuseReload(const std::string& reason) {
  reload_error_ = absl::StrCat("not reloaded: ", reason);
  events_.Add("", "config", reload_error_, true);
}

void Service::Apply(const std::vector<PortConfig>& next) {
  const PortDiff diff = DiffPorts(config_.ports, next);
  const auto config_of = [&](const std::string& name) {
    return *std::find_if(next.begin(), next.end(), [&](const PortConfig& port) { return port.name == name; });
  };
  const auto tell = [&](const std::vector<std::string>& names, const char* what) {
    for (const std::string& name : names) events_.Add(name, "config", what);
  };
  // Before what comes of it.
  tell(diff.removed, "removed by the configuration file");
  tell(diff.session_changed, "changed by the configuration file: its session begins anew");
  tell(diff.added, "added by the configuration file");
  tell(diff.uplink_changed, "uplinks changed by the configuration file");
  // Wires that go together with the port at their other end are not at fault.
  for (const std::string& name : diff.uplink_changed) FindPort(name)->PrepareConfig(config_of(name));
  for (const std::string& name : diff.removed) {
    Drop(name);
    NoteChoice(name, std::nullopt);
  }
  for (const std::string& name : diff.session_changed) Drop(name);
  for (const auto* names : {&diff.session_changed, &diff.added}) {
    for (const std::string& name : *names) {
      Create(config_of(name));
      Connect(name, [](absl::Status) {});
    }
  }
  ForgetStaleChoices();
  for (const std::string& name : diff.uplink_changed) {
    FindPort(name)->SetConfig(config_of(name));
    NoteChoice(name, FindPort(name)->chosen());
  }
  events_.Add("", "config",
              absl::StrCat("reloaded: ", diff.added.size(), " added, ", diff.removed.size(), " removed, ",
                           diff.session_changed.size() + diff.uplink_changed.size(), " changed"));
}

}  // namespace everport
