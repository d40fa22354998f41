#include "backend/service/service.h"

#include <algorithm>
#include <chrono>
#include <filesystem>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/strip.h"
#include "absl/time/clock.h"
#include "backend/base/log.h"
#include "backend/datapath/eal.h"
#include "backend/datapath/memory_guard.h"
#include "migration/feature_contract.h"
#include "numa/cpu_list.h"

namespace everport {
namespace {

// How long a device may take to be opened, and all to be closed, when the daemon ends.
constexpr absl::Duration kStopWait = absl::Milliseconds(500);
constexpr absl::Duration kCloseWait = absl::Seconds(3);
constexpr auto kSamplePeriod = std::chrono::seconds(1);
// How often devices are asked for their health: those that tell nobody by themselves, and when there are none such.
constexpr auto kHealthPeriod = std::chrono::milliseconds(5);
constexpr auto kIdleHealthPeriod = std::chrono::milliseconds(50);

}  // namespace

Service::Service(boost::asio::io_context& io, Config config, std::string config_path, absl::Time started)
    : io_(io),
      config_(std::move(config)),
      config_path_(std::move(config_path)),
      started_(started),
      store_(config_.daemon.state_dir),
      devices_(io),
      libvirt_(io, config_.contracts, *this, store_, events_,
               [](const LibvirtConfig& libvirt, std::function<void(migration::Sighting)> report) {
                 return migration::WatchDomains({.uri = libvirt.uri}, std::move(report));
               }),
      sample_timer_(io),
      health_timer_(io) {}

Service::~Service() {
  api_.reset();
  listener_.reset();
  const auto gone = std::exchange(ports_, {});  // before the pollers and the pools they use
}

// Waits for the device thread while the pollers still serve the guests: what it holds up afterwards is no gap of
// theirs.
bool Service::Stop() {
  libvirt_.Configure(std::nullopt);
  const bool idle = devices_.Finish(kStopWait);
  api_.reset();
  listener_.reset();
  std::exchange(ports_, {}).clear();
  return idle && devices_.Finish(kCloseWait);
}

absl::Status Service::Start() {
  if (absl::Status status = StartPollers(); !status.ok()) return status;
  const FindGuest find_guest = [this](const std::string& name) -> WirePeer {
    everport::Port* port = FindPort(name);
    return port ? WirePeer{port->guest(), port->counters()} : WirePeer{};
  };
  const auto guest_of = [this](const std::string& name) {
    const everport::Port* const port = FindPort(name);
    return port ? port->guest_state() : PeerGuest::kAbsent;
  };
  environment_ = std::make_unique<PortEnvironment>(
      PortEnvironment{io_, pollers_, events_,
                      UplinkEnvironment{io_, mempools_, events_, devices_, find_guest, guest_of, config_.daemon.keeper},
                      [this] { NoteProgress(); },
                      [this](const std::string& name) {
                        for (const auto& port : ports_) port->OnPeerGuest(name);
                      },
                      config_.daemon.keeper, static_cast<unsigned>(topology_.nodes.size())});
  std::error_code error;
  std::filesystem::create_directories(config_.daemon.run_dir, error);
  auto api = ApiServer::Listen(io_, *this, config_.daemon.run_dir + "/api.sock");
  if (!api.ok()) return api.status();
  api_ = std::move(*api);
  listener_ = std::make_unique<TlsListener>(
      io_, *this, [this](const std::string& message, bool warning) { events_.Add("", "api", message, warning); });
  listener_->Configure(config_.daemon.listen);
  if (absl::Status status = LoadPorts(); !status.ok()) return status;
  SampleLater();
  WatchHealth();
  WatchDevices();
  libvirt_.Configure(config_.libvirt);
  if (config_.daemon.keeper) {
    KeeperClient::Listener& listener = *this;  // a private base, so named here
    keeper_ =
        std::make_unique<KeeperClient>(io_, config_.daemon.run_dir + "/keeper.sock", config_.daemon.name, listener);
    keeper_->Start();  // its answers, or its absence, set the ports going
  } else {
    environment_->hold = true;
    for (const auto& port : ports_) Connect(port->config().name, [](absl::Status) {});
    ReleaseHold();
  }
  return absl::OkStatus();
}

absl::Status Service::StartPollers() {
  absl::StatusOr<Topology> topology = ReadTopology();
  if (!topology.ok()) return topology.status();
  topology_ = std::move(*topology);
  const std::vector<unsigned>& wanted = config_.daemon.poller_cpus;
  auto cpus = wanted.empty() ? AutoPollers(topology_, AllowedCpus()) : PinnedPollers(topology_, AllowedCpus(), wanted);
  if (!cpus.ok()) return cpus.status();
  EalOptions eal;
  eal.memory = config_.daemon.memory;
  std::vector<PollerGroup::Spec> specs;
  for (const PollerCpus& poller : *cpus) {
    specs.push_back({FormatCpuList(poller.cpus), poller.node});
    eal.poller_cpus.push_back(specs.back().cpus);
  }
  if (absl::Status status = InstallMemoryGuard(); !status.ok()) return status;
  const absl::Time before = absl::Now();
  if (absl::Status status = InitEal(eal); !status.ok()) return status;
  startup_.eal_ms = absl::ToDoubleMilliseconds(absl::Now() - before);
  samples_.resize(specs.size());
  return pollers_.Start(specs, config_.daemon.max_sleep_us);
}

// The file's ports, then those that the API added earlier, then those of libvirt's domains. Of the latter two one that
// clashes is left out, not the start.
absl::Status Service::LoadPorts() {
  if (auto choices = store_.LoadChoices(); choices.ok()) {
    choices_ = std::move(*choices);
  } else {
    events_.Add("", "config", std::string(choices.status().message()), true);
  }
  for (const PortConfig& port : config_.ports) Create(port);
  const auto add = [this](const PortConfig& port) {
    absl::Status status = CheckFits(port);
    if (status.ok()) Create(port);
    return status;
  };
  absl::StatusOr<StateStore::Saved> saved = store_.Load(config_.contracts);
  if (!saved.ok()) {
    store_error_ = saved.status();
    events_.Add("", "config", std::string(store_error_.message()), true);
    saved.emplace();
  }
  left_out_ = std::move(saved->left_out);
  for (const PortConfig& port : saved->ports) {
    if (absl::Status status = add(port); status.ok()) {
      api_ports_.insert(port.name);
    } else {
      left_out_.push_back({port.name, port.socket, PortToJson(port),
                           std::string(absl::StripPrefix(status.message(), absl::StrCat("port ", port.name, ": ")))});
    }
  }
  for (const StateStore::LeftOut& port : left_out_)
    events_.Add(port.name, "config", absl::StrCat("saved port left out: ", port.why), true);
  libvirt_.Load(add);
  if (store_error_.ok()) ForgetStaleChoices();
  return absl::OkStatus();
}

// Of ports, or uplinks, that went while no daemon was there, or with a session that begins anew.
void Service::ForgetStaleChoices() {
  for (const auto& [name, uplink] : StateStore::Choices(choices_)) {
    const everport::Port* const port = FindPort(name);
    if ((port && port->chosen()) || FindLeftOut(name)) continue;
    if (port) events_.Add(name, "path", ChoiceGone(DescribeUplink(uplink)), true);
    NoteChoice(name, std::nullopt);
  }
}

everport::Port* Service::FindPort(const std::string& name) const {
  auto found =
      std::find_if(ports_.begin(), ports_.end(), [&](const auto& port) { return port->config().name == name; });
  return found == ports_.end() ? nullptr : found->get();
}

std::vector<PortConfig> Service::Configs() const {
  std::vector<PortConfig> configs;
  for (const auto& port : ports_) configs.push_back(port->config());
  return configs;
}

void Service::Create(const PortConfig& port) {
  // The configuration has been checked: the contract exists.
  ports_.push_back(std::make_unique<everport::Port>(
      port, WithPostcopy(*config_.contracts.Find(port.contract), port.postcopy), *environment_));
  if (const auto choice = choices_.find(port.name); choice != choices_.end()) ports_.back()->SetChosen(choice->second);
}

void Service::Connect(const std::string& name, Done done) {
  everport::Port* port = FindPort(name);
  if (!config_.daemon.keeper) {
    const absl::Status status = port->Attach(port->config().socket, nullptr);
    PeersChanged(name);
    return done(status);
  }
  if (!keeper_ || !keeper_->connected()) {  // its session comes with the keeper's return
    port->OnSession({name, SessionState::kWaiting, "keeper not connected"});
    port->Reconcile();
    return done(absl::OkStatus());
  }
  ++attaching_;
  environment_->hold = true;
  // The port may be removed, or one of its name made anew, before the answer comes.
  keeper_->Send(AddRequest{SpecOf(port->config(), config_.contracts)},
                [this, name, serial = port->serial(), done](absl::StatusOr<KeeperClient::Answer> answer) {
                  everport::Port* const asked = FindPort(name);
                  if (asked && asked->serial() == serial) {
                    AttachFromKeeper(*asked, std::move(answer), done);
                  } else {
                    done(absl::CancelledError(absl::StrCat("port ", name, ": removed before the keeper had answered")));
                  }
                  if (--attaching_ == 0) ReleaseHold();
                });
}

void Service::AttachFromKeeper(everport::Port& port, absl::StatusOr<KeeperClient::Answer> answer, const Done& done) {
  const std::string name = port.config().name;
  absl::Status status = answer.status();
  if (status.ok()) {
    std::shared_ptr<IndexPageMap> page = IndexPageMap::Map(answer->fd);
    status = page ? port.Attach(answer->reply.socket, std::move(page))
                  : absl::FailedPreconditionError(absl::StrCat(
                        "port ", name,
                        ": the keeper's index page is of another version; upgrade keeper and daemon together"));
    reattached_.insert(name);
  }
  if (!status.ok()) {
    events_.Add(name, "keeper", std::string(status.message()), true);
    port.OnSession({name, SessionState::kWaiting, std::string(status.message())});
  }
  done(status);
}

// All ports have their sockets: wires are made anew where an end was, and everyone may act.
void Service::ReleaseHold() {
  for (const std::string& name : std::exchange(reattached_, {})) PeersChanged(name);
  environment_->hold = false;
  for (const auto& port : ports_) {  // another may have been given a device of theirs
    if (port->config_due()) port->Reconcile();
  }
  for (const auto& port : ports_) port->Reconcile();
}

void Service::PeersChanged(const std::string& name) {
  for (const auto& port : ports_) {
    if (port->config().name != name) port->OnPeerChanged(name);
  }
}

void Service::OnKeeperConnected() {
  events_.Add("", "keeper", "keeper connected");
  for (const auto& port : ports_) Connect(port->config().name, [](absl::Status) {});
  TidyKeeper();
}

// Sessions of ours that nobody wants any more are ended; the others' states are taken over.
void Service::TidyKeeper() {
  keeper_->Send(ListRequest{}, [this](absl::StatusOr<KeeperClient::Answer> answer) {
    if (!answer.ok()) return;  // OnKeeperLost tells
    sessions_known_ = true;
    for (const PortSession& session : answer->reply.ports) {
      if (session.state == SessionState::kRunning) awaited_.insert(session.spec.name);
      if (everport::Port* port = FindPort(session.spec.name)) {
        port->OnSession({session.spec.name, session.state, session.reason, session.postcopy});
      } else if (const StateStore::LeftOut* const saved = FindLeftOut(session.spec.name);
                 saved && !SocketServed(saved->socket)) {
        events_.Add(session.spec.name, "keeper", "left out, but its guest's session is kept", true);
      } else if (const std::string why = WhyKept(); !why.empty()) {
        events_.Add(session.spec.name, "keeper", absl::StrCat("unknown, but its session is kept: ", why), true);
      } else {
        events_.Add(session.spec.name, "keeper", "no longer configured: its session is ended", true);
        keeper_->Send(RemoveRequest{session.spec.name},
                      [this, socket = session.spec.socket](const absl::StatusOr<KeeperClient::Answer>& removed) {
                        if (removed.ok()) ConnectAt(socket);
                      });
      }
    }
    NoteProgress();
  });
}

// The port that was refused this socket while a session of another name had it.
void Service::ConnectAt(const std::string& socket) {
  for (const auto& port : ports_) {
    if (port->config().socket == socket) return Connect(port->config().name, [](absl::Status) {});
  }
}

// Empty: what is not known to us is nobody's.
std::string Service::WhyKept() const {
  if (!store_error_.ok()) return absl::StrCat("it may be in ", std::string(store_error_.message()));
  return libvirt_.unknown() ? "it may be that of a libvirt domain, of which nothing is known yet" : "";
}

// The start has ended when every guest that was running before is served again.
void Service::NoteProgress() {
  if (startup_.total_ms > 0 || environment_->hold || (keeper_ && !sessions_known_)) return;
  for (const std::string& name : awaited_) {
    everport::Port* port = FindPort(name);
    if (port && !port->serving()) return;
  }
  const absl::Duration took = absl::Now() - started_;
  startup_ = Startup();
  startup_.total_ms = absl::ToDoubleMilliseconds(took);
  events_.Add("", "start",
              absl::StrFormat("started in %.0f ms: EAL %.0f, uplinks %.0f, replay %.0f; %d of %d ports taken over",
                              startup_.total_ms, startup_.eal_ms, startup_.uplinks_ms, startup_.replay_ms,
                              awaited_.size(), ports_.size()));
}

void Service::OnKeeperLost(const std::string& reason) {
  events_.Add("", "keeper", absl::StrCat("keeper not connected: ", reason), true);
  sessions_known_ = false;
  // A keeper that died took its sessions along; librte_vhost has seen its sockets close.
  for (const auto& port : ports_) {
    port->OnSession({port->config().name, SessionState::kWaiting, "keeper not connected"});
    port->Reconcile();  // uplinks are tried, and their trouble told, without a keeper as well
  }
}

void Service::OnSession(const SessionEvent& event) {
  if (everport::Port* port = FindPort(event.name)) port->OnSession(event);
}

void Service::OnAnnounce(const AnnounceEvent& event) {
  MacAddress mac;
  everport::Port* port = FindPort(event.name);
  if (port && ParseMac(event.mac, mac.data())) port->Announce(mac);
}

void Service::SwitchPath(const std::string& name, int uplink_index, Done done) {
  everport::Port* port = FindPort(name);
  if (!port)
    return done(absl::NotFoundError(
        absl::StrCat("port ", name, ": does not exist; `everportctl ports` lists those there are")));
  port->ChoosePath(uplink_index, [this, name, done = std::move(done)](const absl::Status& status) {
    if (const everport::Port* const there = FindPort(name)) NoteChoice(name, there->chosen());
    done(status);
  });
}

void Service::WatchDevices() {
  DeviceWatch::Callbacks callbacks;
  callbacks.on_device = [this](const std::string&) {
    for (const auto& port : ports_) port->OnDeviceEvent();
  };
  callbacks.on_netdev = [this](const std::string& name, unsigned index, bool present, bool running) {
    for (const auto& port : ports_) port->OnNetdev(name, present ? index : 0, running);
  };
  auto watch = DeviceWatch::Start(io_, std::move(callbacks));
  if (watch.ok()) {
    device_watch_ = std::move(*watch);
  } else {
    events_.Add("", "devices",
                absl::StrCat(std::string(watch.status().message()),
                             "; devices that come, go or lose their link are noticed within seconds only"),
                true);
  }
}

void Service::WatchHealth() {
  const bool hardware =
      std::any_of(ports_.begin(), ports_.end(), [](const auto& port) { return port->needs_polling(); });
  health_timer_.expires_after(hardware ? kHealthPeriod : kIdleHealthPeriod);
  health_timer_.async_wait([this](boost::system::error_code error) {
    if (error) return;
    for (const auto& port : ports_) port->PollHealth();
    WatchHealth();
  });
}

void Service::SampleLater() {
  sample_timer_.expires_after(kSamplePeriod);
  sample_timer_.async_wait([this](boost::system::error_code error) {
    if (error) return;
    Sample();
    SampleLater();
  });
}

// Whose memory the guard had to patch.
void Service::CheckMemoryGuard() {
  for (const uintptr_t address : TakeMemoryGuardHits()) {
    const auto owner = std::find_if(ports_.begin(), ports_.end(),
                                    [&](const auto& port) { return port->guest() && port->guest()->Owns(address); });
    events_.Add(owner == ports_.end() ? "" : (*owner)->config().name, "memory",
                "the front-end has shortened its memory file under us; its rings hold zeros until it reconnects", true);
  }
}

// Once for each, and again when it has ended.
void Service::NoteSlowDevice() {
  const auto slow = devices_.slow();
  if (slow_ && (!slow || slow->job != slow_->job)) {
    events_.Add(slow_->about.port, "path",
                absl::StrCat(slow_->about.what, ": its driver has returned after about ",
                             absl::ToInt64Seconds(absl::Now() - slow_->since), " s"));
  }
  const bool told = slow && slow_ && slow->job == slow_->job;
  slow_ = slow;
  if (!slow || told) return;
  events_.Add(slow->about.port, "path", DescribeSlow(*slow), true);
  for (const auto& port : ports_) port->Reconcile();  // nobody waits for its uplinks to be tried any more
}

void Service::Sample() {
  CheckMemoryGuard();
  NoteSlowDevice();
  if (!choices_error_.ok()) SaveChoices();
  for (const auto& port : ports_) port->CheckNetdevs();
  libvirt_.Tick();
  const absl::Time now = absl::Now();
  const double period_ns = std::max(1.0, absl::ToDoubleNanoseconds(now - std::exchange(sampled_, now)));
  for (const auto& poller : pollers_.pollers()) {
    PollerSample& sample = samples_[poller->index()];
    const uint64_t slept = poller->counters().slept_ns.load(std::memory_order_relaxed);
    sample.busy = std::clamp(1.0 - static_cast<double>(slept - sample.slept_ns) / period_ns, 0.0, 1.0);
    sample.slept_ns = slept;
  }
}

}  // namespace everport
