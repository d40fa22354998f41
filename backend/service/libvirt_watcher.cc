#include "backend/service/libvirt_watcher.h"

#include <sys/stat.h>

#include <algorithm>
#include <boost/asio/post.hpp>
#include <utility>

#include "absl/strings/str_cat.h"

namespace everport {
namespace {

// A socket that no domain has after so many looks is somebody else's.
constexpr int kLooks = 3;
// In health; the events tell of all.
constexpr size_t kMostRefusals = 20;

bool IsOfType(const std::string& path, mode_t type) {
  struct stat found {};
  return ::lstat(path.c_str(), &found) == 0 && (found.st_mode & S_IFMT) == type;
}

std::set<std::string> SocketsOf(const std::vector<migration::SeenDomain>& domains) {
  std::set<std::string> sockets;
  for (const migration::SeenDomain& domain : domains) {
    for (const migration::Nic& nic : domain.domain.nics) sockets.insert(nic.socket);
  }
  return sockets;
}

}  // namespace

LibvirtWatcher::LibvirtWatcher(boost::asio::io_context& io, const ContractSet& contracts, PortTable& table,
                               const StateStore& store, EventLog& events, MakeSource make_source)
    : io_(io),
      contracts_(contracts),
      table_(table),
      store_(store),
      events_(events),
      make_source_(std::move(make_source)) {}

LibvirtWatcher::~LibvirtWatcher() {
  if (alive_) *alive_ = nullptr;
}

void LibvirtWatcher::Load(const std::function<absl::Status(const PortConfig&)>& fits) {
  auto loaded = store_.LoadDomainPorts(contracts_);
  if (!loaded.ok()) {
    unknown_ = true;
    return events_.Add("", "libvirt", std::string(loaded.status().message()), true);
  }
  for (const std::string& text : loaded->left_out) events_.Add("", "libvirt", text, true);
  unknown_ = !loaded->left_out.empty();
  for (DomainPort& port : loaded->ports) {
    if (absl::Status status = fits(port.config); status.ok()) {
      made_.push_back(std::move(port));
    } else {
      events_.Add(port.config.name, "libvirt",
                  absl::StrCat("port of ", DomainText(port.domain), " left out: ", status.message()), true);
    }
  }
}

const DomainPort* LibvirtWatcher::Find(const std::string& name) const {
  const auto found =
      std::find_if(made_.begin(), made_.end(), [&](const DomainPort& port) { return port.config.name == name; });
  return found == made_.end() ? nullptr : &*found;
}

void LibvirtWatcher::Configure(const std::optional<LibvirtConfig>& config) {
  if (config == config_) return;
  if (alive_) *alive_ = nullptr;
  source_.reset();
  folder_.reset();
  last_.reset();
  asked_ = false;
  reached_ = absl::OkStatus();
  folder_trouble_.clear();
  refused_.clear();
  lingering_.clear();
  appeared_.clear();
  unreadable_.clear();
  config_ = config;
  if (!config_) return;
  alive_ = std::make_shared<LibvirtWatcher*>(this);
  // Before libvirt is asked, so that no socket is missed.
  folder_ =
      std::make_unique<FolderWatch>(io_, config_->socket_folder, [this](const std::string& name) { OnAppeared(name); });
  source_ = make_source_(*config_, [&io = io_, alive = alive_](migration::Sighting sighting) {
    boost::asio::post(io, [alive, sighting = std::move(sighting)]() mutable {
      if (*alive) (*alive)->OnSighting(std::move(sighting));
    });
  });
  Tick();
}

void LibvirtWatcher::Tick() {
  if (!saved_.ok()) Save();
  if (!folder_) return;
  const std::string trouble = folder_->Renew();
  if (trouble != folder_trouble_ && !trouble.empty()) {
    events_.Add("", "libvirt", absl::StrCat("the folder of the sockets is not there: ", trouble), true);
  }
  folder_trouble_ = trouble;
  if (!lingering_.empty()) Reconcile();
}

void LibvirtWatcher::LookAgain() {
  if (source_) source_->Nudge();
}

void LibvirtWatcher::OnAppeared(const std::string& name) {
  const std::string path = absl::StrCat(config_->socket_folder, "/", name);
  if (IsOfType(path, S_IFSOCK)) appeared_.emplace(path, 0);
  LookAgain();
}

void LibvirtWatcher::OnSighting(migration::Sighting sighting) {
  const absl::Status before = std::exchange(reached_, sighting.status);
  const bool first = !std::exchange(asked_, true);
  if (!reached_.ok()) {
    if (first || before.ok()) {
      events_.Add("", "libvirt",
                  absl::StrCat("not connected, and ports of its domains stay as they are: ", reached_.message()), true);
    }
    return;
  }
  if (first || !before.ok()) events_.Add("", "libvirt", absl::StrCat("connected to ", config_->uri));
  last_ = std::move(sighting);
  NoteAppeared();
  Reconcile();
}

// A domain whose interface is being attached cannot be read until that has its port.
void LibvirtWatcher::NoteAppeared() {
  std::set<std::string> known = SocketsOf(last_->domains), unreadable;
  std::string unread;
  for (const migration::SeenDomain& domain : last_->domains) {
    if (domain.status.ok()) continue;
    unreadable.insert(domain.uuid);
    unread = domain.domain.name;
    if (!unreadable_.count(domain.uuid)) {
      events_.Add(
          "", "libvirt",
          absl::StrCat(DomainText(domain.domain.name), ": ", domain.status.message(), "; its ports stay as they are"),
          true);
    }
  }
  unreadable_ = std::move(unreadable);
  for (const PortConfig& port : table_.OtherPorts()) known.insert(port.socket);
  for (auto socket = appeared_.begin(); socket != appeared_.end();) {
    bool done = known.count(socket->first) || ++socket->second >= kLooks;
    if (!known.count(socket->first) && !unread.empty()) {
      done = true;
      events_.Add(
          "", "libvirt",
          absl::StrCat(socket->first, ": no domain is known to have it, and ", DomainText(unread),
                       " cannot be read; if an interface is being attached to it, QEMU and libvirt wait for its "
                       "port: everportctl port add NAME --socket ",
                       socket->first, " --uplink …"),
          true);
    }
    socket = done ? appeared_.erase(socket) : std::next(socket);
  }
}

void LibvirtWatcher::Reconcile() {
  if (!config_ || !last_) return;
  unknown_ = false;
  if (unreadable_.empty()) {
    const std::set<std::string> seen = SocketsOf(last_->domains);
    std::erase_if(left_alone_, [&](const std::string& socket) { return !seen.count(socket); });
  }
  DomainPortsPlan plan = PlanDomainPorts({*config_, contracts_, last_->domains, made_, table_.OtherPorts(), left_alone_,
                                          [](const std::string& path) { return IsOfType(path, S_IFLNK); },
                                          [this](const std::string& name) { return table_.MayHaveGuest(name); }});
  TellLingering(plan.linger);
  for (const auto* names : {&plan.remove, &plan.replace}) Remove(*names);
  const bool changed = made_ != plan.made;
  made_ = std::move(plan.made);
  if (changed) Save();
  for (const auto* names : {&plan.replace, &plan.add}) {
    for (const std::string& name : *names) {
      const DomainPort port = *Find(name);
      events_.Add(name, "libvirt", absl::StrCat("made for ", DomainText(port.domain), ", interface ", port.config.mac));
      table_.MakeDomainPort(port.config);
    }
  }
  TellRefusals(std::move(plan.refused));
}

void LibvirtWatcher::TellLingering(const std::vector<std::string>& names) {
  for (const std::string& name : names) {
    if (lingering_.count(name)) continue;
    events_.Add(
        name, "libvirt",
        absl::StrCat(DomainText(Find(name)->domain), " has it no more; it goes when no QEMU is connected to it"));
  }
  lingering_ = {names.begin(), names.end()};
}

void LibvirtWatcher::Remove(const std::vector<std::string>& names) {
  for (const std::string& name : names) {
    events_.Add(name, "libvirt", absl::StrCat("removed: ", DomainText(Find(name)->domain), " has it no more"));
    table_.RemoveDomainPort(name);
  }
}

void LibvirtWatcher::TellRefusals(std::vector<std::string> refused) {
  const std::set<std::string> told(refused_.begin(), refused_.end());
  for (const std::string& text : refused) {
    if (!told.count(text)) events_.Add("", "libvirt", text, true);
  }
  refused_ = std::move(refused);
}

// It holds for this run whether or not it can be saved.
void LibvirtWatcher::Save() {
  const bool failed = !saved_.ok();
  saved_ = store_.SaveDomainPorts(made_);
  if (!saved_.ok() && !failed) events_.Add("", "libvirt", std::string(saved_.message()), true);
}

void LibvirtWatcher::Release(const PortConfig& port) {
  // Of a domain that is known to have ended the next one on that socket is another matter.
  const bool in_use = !last_ || !unreadable_.empty() || SocketsOf(last_->domains).count(port.socket);
  if (config_ && in_use) left_alone_.insert(port.socket);
  const auto ours = [&](const DomainPort& made) { return made.config.name == port.name; };
  if (std::erase_if(made_, ours) == 0) return;
  lingering_.erase(port.name);
  Save();
}

std::optional<LibvirtView> LibvirtWatcher::View() const {
  if (!config_) return std::nullopt;
  LibvirtView view;
  view.uri = config_->uri;
  view.socket_folder = config_->socket_folder;
  view.connected = asked_ && reached_.ok();
  view.trouble = asked_ ? std::string(reached_.message()) : "not asked yet";
  view.ports = made_.size();
  view.refused = refused_.size();
  return view;
}

std::vector<std::string> LibvirtWatcher::Problems() const {
  std::vector<std::string> problems;
  const auto add = [&](const auto&... text) { problems.push_back(absl::StrCat(kLibvirtProblem, text...)); };
  if (!saved_.ok()) add("ports of domains are not saved: ", saved_.message());
  if (!config_) return problems;
  if (asked_ && !reached_.ok()) add(reached_.message());
  if (!folder_trouble_.empty()) {
    add("socket_folder ", folder_trouble_, "; make it, or correct [libvirt] in the configuration");
  }
  for (size_t i = 0; i < std::min(refused_.size(), kMostRefusals); ++i) add(refused_[i]);
  if (refused_.size() > kMostRefusals) {
    add(refused_.size() - kMostRefusals, " more interfaces get no port; see: everportctl events --no-follow");
  }
  return problems;
}

}  // namespace everport
