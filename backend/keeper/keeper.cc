#include "backend/keeper/keeper.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "backend/base/log.h"
#include "backend/keeper/unix_socket.h"
#include "migration/feature_contract.h"

namespace everport {

Keeper::Keeper(boost::asio::io_context& io) : io_(io), watch_(io) {}

Keeper::~Keeper() {
  ports_.clear();
  control_.reset();
}

absl::Status Keeper::Start(const Config& config) {
  run_dir_ = config.daemon.run_dir;
  if (absl::Status status = MakeFolder(run_dir_, 0755); !status.ok()) return status;
  absl::StatusOr<std::unique_ptr<ControlServer>> control = ControlServer::Listen(io_, run_dir_ + "/keeper.sock", *this);
  if (absl::IsAlreadyExists(control.status()))
    return absl::AlreadyExistsError(
        absl::StrCat(std::string(control.status().message()),
                     "; one keeper serves a run_dir: stop that one, or set another run_dir"));
  if (!control.ok()) return control.status();
  control_ = *std::move(control);
  if (absl::Status status = MakeFolder(run_dir_ + "/keeper", 0700); !status.ok()) return status;
  for (const PortConfig& port : config.ports) {
    const PortSpec spec = SpecOf(port, config.contracts);
    if (absl::Status status = Add(spec, config.daemon.name).status(); !status.ok()) return status;
  }
  return absl::OkStatus();
}

std::vector<PortSession> Keeper::List(const std::string& owner) const {
  std::vector<PortSession> list;
  for (const auto& [name, port] : ports_) {
    if (port.owner != owner) continue;
    const Session& session = port.io->session();
    list.push_back({session.spec(), session.state(), session.daemon_attached(), session.reason(), session.postcopy()});
  }
  return list;
}

namespace {

ControlServer::Ports::Added Describe(const SessionIo& io) {
  const Session& session = io.session();
  return {io.daemon_socket(), io.index_page_fd(), session.state(), session.reason(), session.postcopy()};
}

}  // namespace

absl::StatusOr<ControlServer::Ports::Added> Keeper::Add(const PortSpec& spec, const std::string& owner) {
  const auto refuse = [&spec](const std::string& why) {
    return absl::FailedPreconditionError(absl::StrCat("port ", spec.name, ": ", why));
  };
  if (const auto found = ports_.find(spec.name); found != ports_.end()) {
    const Port& port = found->second;
    if (port.owner != owner) return refuse(absl::StrCat("belongs to daemon \"", port.owner, "\""));
    if (port.io->spec() == spec) return Describe(*port.io);
    PortSpec but_for_profile = spec;
    but_for_profile.profile = port.io->spec().profile;
    if (port.io->spec() == but_for_profile)
      return refuse(absl::StrCat("its session was begun with another contract ", spec.contract,
                                 ", which its guest relies on; put that one back into the configuration and give the "
                                 "changed one a new name"));
    return refuse("is there with other settings; remove it first");
  }
  for (const auto& [name, port] : ports_)
    if (port.io->spec().socket == spec.socket) return refuse(absl::StrCat("port ", name, " has the same socket"));
  const absl::StatusOr<FeatureContract> contract = spec.profile ? *spec.profile : FindContract(spec.contract);
  if (!contract.ok()) return refuse(std::string(contract.status().message()));
  if (spec.queue_pairs > contract->max_queue_pairs || spec.mtu > contract->max_mtu)
    return refuse(absl::StrCat("contract ", spec.contract, " allows ", contract->max_queue_pairs,
                               " queue pairs and mtu ", contract->max_mtu));
  absl::StatusOr<std::unique_ptr<SessionIo>> io =
      SessionIo::Create(io_, watch_, signal_, spec, WithPostcopy(*contract, spec.postcopy),
                        absl::StrCat(run_dir_, "/keeper/", spec.name, ".sock"), *this);
  if (!io.ok()) return refuse(std::string(io.status().message()));
  spdlog::info("{}: served for daemon \"{}\", front-end at {}", spec.name, owner, spec.socket);
  const Port& port = ports_.emplace(spec.name, Port{owner, *std::move(io)}).first->second;
  return Describe(*port.io);
}

absl::Status Keeper::Remove(const std::string& name, const std::string& owner) {
  const auto found = ports_.find(name);
  if (found == ports_.end()) return absl::NotFoundError(absl::StrCat("port ", name, ": not there"));
  if (found->second.owner != owner)
    return absl::FailedPreconditionError(
        absl::StrCat("port ", name, ": belongs to daemon \"", found->second.owner, "\""));
  ports_.erase(found);
  spdlog::info("{}: removed by daemon \"{}\"", name, owner);
  return absl::OkStatus();
}

void Keeper::OnSessionState(const std::string& port, const StateChanged& change) {
  const auto found = ports_.find(port);  // not there yet while it is being made
  if (found != ports_.end())
    control_->Push(found->second.owner, SessionEvent{port, change.state, change.reason, change.postcopy});
}

// QEMU asks once for each queue pair, in rounds that lie further apart than kAnnounceGap: one of each is enough, and no
// front-end fills the logs and the daemon's connection with them.
void Keeper::OnAnnounce(const std::string& port, const std::array<uint8_t, 6>& mac) {
  constexpr auto kAnnounceGap = std::chrono::milliseconds(10);
  const auto found = ports_.find(port);
  const auto now = std::chrono::steady_clock::now();
  if (found == ports_.end() || now < found->second.announced + kAnnounceGap) return;
  found->second.announced = now;
  const std::string text = FormatMac(mac.data());
  spdlog::info("{}: the front-end asks to announce {}", port, text);
  control_->Push(found->second.owner, AnnounceEvent{port, text});
}

}  // namespace everport
