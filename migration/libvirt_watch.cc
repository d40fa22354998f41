#include "migration/libvirt_watch.h"

#include <algorithm>
#include <condition_variable>
#include <cstdlib>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "migration/domain_xml.h"
#include "migration/libvirt_library.h"

namespace everport::migration {
namespace {

using libvirt::Connection;
using libvirt::DomainRef;
using libvirt::LastError;
using libvirt::Lib;
using libvirt::LibvirtError;
using libvirt::StatusOf;
using libvirt::Waited;

constexpr absl::Duration kReadAtLeast = absl::Milliseconds(100);

// What the watch, its thread and libvirt's event loop have in common; the last of them frees it.
class Bell {
 public:
  explicit Bell(std::function<void(Sighting)> report) : report_(std::move(report)) {}

  void Ring() {
    Set([this] { rung_ = true; });
  }
  void Lost() {
    Set([this] { lost_ = true; });
  }
  void Stop() {
    Set([this] {
      stopped_ = true;
      report_ = nullptr;
    });
  }
  void Connected() {
    Set([this] { lost_ = false; });
  }
  // Not after Stop.
  void Report(Sighting sighting) {
    const std::lock_guard lock(mutex_);
    if (report_) report_(std::move(sighting));
  }
  // Until rung, lost or stopped, or the time is over. What rang before is heard; afterwards it is silent again.
  void Await(absl::Duration time) {
    Wait(time, [this] { return rung_ || lost_ || stopped_; });
    const std::lock_guard lock(mutex_);
    rung_ = false;
  }
  void Pause(absl::Duration time) {
    Wait(time, [this] { return stopped_; });
  }
  bool stopped() {
    const std::lock_guard lock(mutex_);
    return stopped_;
  }
  bool lost() {
    const std::lock_guard lock(mutex_);
    return lost_;
  }

 private:
  template <typename Change>
  void Set(const Change& change) {
    const std::lock_guard lock(mutex_);
    change();
    changed_.notify_all();
  }
  template <typename Done>
  void Wait(absl::Duration time, const Done& done) {
    std::unique_lock lock(mutex_);
    changed_.wait_for(lock, absl::ToChronoMilliseconds(time), done);
  }

  std::mutex mutex_;
  std::condition_variable changed_;
  std::function<void(Sighting)> report_;
  bool rung_ = false, lost_ = false, stopped_ = false;
};
using SharedBell = std::shared_ptr<Bell>;

SharedBell& BellOf(void* opaque) {
  return *static_cast<SharedBell*>(opaque);
}
void FreeBell(void* opaque) {
  delete static_cast<SharedBell*>(opaque);
}
void OnClose(virConnectPtr, int, void* opaque) {
  BellOf(opaque)->Lost();
}
int OnLifecycle(virConnectPtr, virDomainPtr, int, int, void* opaque) {
  BellOf(opaque)->Ring();
  return 0;
}
void OnDevice(virConnectPtr, virDomainPtr, const char*, void* opaque) {
  BellOf(opaque)->Ring();
}

// One connection to libvirt: what it tells until it is lost.
class Observer {
 public:
  Observer(const Lib& lib, Connection connection, SharedBell bell, const DomainWatchOptions& options)
      : lib_(lib), connection_(std::move(connection)), bell_(std::move(bell)), options_(options) {}
  ~Observer();
  Observer(const Observer&) = delete;
  Observer& operator=(const Observer&) = delete;

  absl::Status Subscribe();
  Sighting Look();

 private:
  struct Answer {
    LibvirtError error;  // VIR_ERR_OK: xml is it
    std::string xml;
    bool starting = false;
  };
  absl::Status Subscribe(int event, virConnectDomainEventGenericCallback callback);
  absl::Status List(unsigned flags, std::vector<DomainRef>& domains);
  std::string UuidOf(const DomainRef& domain) const;
  static Answer Ask(const Lib& lib, const DomainRef& domain);
  std::optional<SeenDomain> Read(const DomainRef& domain, const std::string& uuid, absl::Time end);

  const Lib& lib_;
  const Connection connection_;
  const SharedBell bell_;
  const DomainWatchOptions& options_;
  bool closes_ = false;
  std::vector<int> subscriptions_;
  // By UUID: a domain that does not answer is not asked again before it has; each would hold a worker of libvirtd's.
  std::map<std::string, Waited<Answer>> reading_;
};

Observer::~Observer() {
  for (const int id : subscriptions_) lib_.virConnectDomainEventDeregisterAny(connection_.get(), id);
  if (closes_) lib_.virConnectUnregisterCloseCallback(connection_.get(), OnClose);
}

absl::Status Observer::Subscribe(int event, virConnectDomainEventGenericCallback callback) {
  auto bell = std::make_unique<SharedBell>(bell_);
  const int id =
      lib_.virConnectDomainEventRegisterAny(connection_.get(), nullptr, event, callback, bell.get(), FreeBell);
  if (id < 0) return StatusOf(LastError(lib_), absl::StrCat("libvirt at ", options_.uri, ": events"));
  (void)bell.release();
  subscriptions_.push_back(id);
  return absl::OkStatus();
}

absl::Status Observer::Subscribe() {
  auto bell = std::make_unique<SharedBell>(bell_);
  closes_ = lib_.virConnectRegisterCloseCallback(connection_.get(), OnClose, bell.get(), FreeBell) == 0;
  if (!closes_) return StatusOf(LastError(lib_), absl::StrCat("libvirt at ", options_.uri));
  (void)bell.release();
  absl::Status status = Subscribe(VIR_DOMAIN_EVENT_ID_LIFECYCLE, VIR_DOMAIN_EVENT_CALLBACK(OnLifecycle));
  status.Update(Subscribe(VIR_DOMAIN_EVENT_ID_DEVICE_ADDED, VIR_DOMAIN_EVENT_CALLBACK(OnDevice)));
  status.Update(Subscribe(VIR_DOMAIN_EVENT_ID_DEVICE_REMOVED, VIR_DOMAIN_EVENT_CALLBACK(OnDevice)));
  return status;
}

absl::Status Observer::List(unsigned flags, std::vector<DomainRef>& domains) {
  virDomainPtr* list = nullptr;
  const int count = lib_.virConnectListAllDomains(connection_.get(), &list, flags);
  if (count < 0)
    return StatusOf(LastError(lib_), absl::StrCat("libvirt at ", options_.uri), "is its libvirtd running?");
  for (int i = 0; i < count; ++i) domains.emplace_back(list[i], lib_.virDomainFree);
  ::free(static_cast<void*>(list));
  return absl::OkStatus();
}

Sighting Observer::Look() {
  Sighting sighting;
  std::vector<DomainRef> active, others;
  // In this order: one that starts in between is in both.
  sighting.status = List(VIR_CONNECT_LIST_DOMAINS_INACTIVE | VIR_CONNECT_LIST_DOMAINS_AUTOSTART, others);
  if (sighting.status.ok()) sighting.status = List(VIR_CONNECT_LIST_DOMAINS_ACTIVE, active);
  if (!sighting.status.ok()) return sighting;
  std::map<std::string, Waited<Answer>> before;
  before.swap(reading_);
  std::set<std::string> seen;
  const absl::Time end = absl::Now() + options_.read_timeout;
  for (const auto* domains : {&active, &others}) {
    for (const DomainRef& domain : *domains) {
      const std::string uuid = UuidOf(domain);
      if (!seen.insert(uuid).second) continue;
      if (const auto found = before.find(uuid); found != before.end()) reading_.insert(before.extract(found));
      auto read = Read(domain, uuid, end);
      if (!read) continue;
      read->active = domains == &active;
      sighting.domains.push_back(*std::move(read));
    }
  }
  return sighting;
}

std::string Observer::UuidOf(const DomainRef& domain) const {
  char uuid[VIR_UUID_STRING_BUFLEN] = "";
  lib_.virDomainGetUUIDString(domain.get(), uuid);
  return uuid;
}

Observer::Answer Observer::Ask(const Lib& lib, const DomainRef& domain) {
  char* const text = lib.virDomainGetXMLDesc(domain.get(), 0);
  if (!text) return {LastError(lib), ""};
  Answer answer{{}, text};
  ::free(text);
  int state = 0, reason = 0;
  answer.starting = lib.virDomainGetState(domain.get(), &state, &reason, 0) == 0 && state == VIR_DOMAIN_PAUSED &&
                    reason == VIR_DOMAIN_PAUSED_STARTING_UP;
  return answer;
}

// Nothing: it has ended meanwhile. end: until when all of them have time to answer; each has a little time of its own,
// so that those that do not answer hold up the others once, and not one after the other.
std::optional<SeenDomain> Observer::Read(const DomainRef& domain, const std::string& uuid, absl::Time end) {
  SeenDomain active;
  active.uuid = uuid;
  active.settled = false;
  if (const char* const name = lib_.virDomainGetName(domain.get())) active.domain.name = name;
  auto found = reading_.find(uuid);
  const bool again = found != reading_.end();
  if (again && !found->second.Wait(absl::ZeroDuration())) {
    active.status = absl::DeadlineExceededError("libvirt does not give its XML");
    return active;
  }
  // What it answers to an earlier question is not what it has now.
  if (again) reading_.erase(found);
  Waited<Answer> question([&lib = lib_, domain] { return Ask(lib, domain); });
  const auto answer = question.Wait(std::max(end - absl::Now(), kReadAtLeast));
  if (!answer) {
    reading_.emplace(uuid, std::move(question));
    active.status = absl::DeadlineExceededError("libvirt does not give its XML");
    return active;
  }
  if (answer->error.code == VIR_ERR_NO_DOMAIN) return std::nullopt;
  if (answer->error.code != VIR_ERR_OK) {
    active.status = absl::UnavailableError(absl::StrCat("libvirt does not give its XML: ", answer->error.text));
    return active;
  }
  auto parsed = ParseDomain(answer->xml);
  active.status = parsed.status();
  active.settled = !answer->starting;
  if (parsed.ok()) active.domain = *std::move(parsed);
  return active;
}

class Watch : public DomainSource {
 public:
  Watch(DomainWatchOptions options, std::function<void(Sighting)> report)
      : bell_(std::make_shared<Bell>(std::move(report))) {
    // Left to itself: a call of libvirt's may take as long as a host does not answer.
    std::thread([options = std::move(options), bell = bell_] { Run(options, bell); }).detach();
  }
  ~Watch() override { bell_->Stop(); }
  void Nudge() override { bell_->Ring(); }

 private:
  static void Run(const DomainWatchOptions& options, const SharedBell& bell);
  // An attempt that has not ended yet is waited for again: each would leave a thread behind.
  using Attempt = std::optional<Waited<absl::StatusOr<Connection>>>;
  static absl::StatusOr<Connection> Connect(const Lib& lib, const DomainWatchOptions& options, Attempt& attempt);
  static absl::Status Follow(const DomainWatchOptions& options, const SharedBell& bell, Attempt& attempt,
                             bool& reached);

  const SharedBell bell_;
};

void Watch::Run(const DomainWatchOptions& options, const SharedBell& bell) {
  absl::Duration retry = options.first_retry;
  Attempt attempt;
  while (!bell->stopped()) {
    bool reached = false;
    absl::Status status = Follow(options, bell, attempt, reached);
    if (reached) retry = options.first_retry;
    bell->Report({std::move(status), {}});
    bell->Pause(retry);
    retry = std::min(2 * retry, options.longest_retry);
  }
}

absl::StatusOr<Connection> Watch::Connect(const Lib& lib, const DomainWatchOptions& options, Attempt& attempt) {
  if (!attempt) {
    attempt.emplace([&lib, uri = options.uri, timeout = options.timeout] { return libvirt::Open(lib, uri, timeout); });
  }
  auto opened = attempt->Wait(options.timeout);
  if (!opened) return libvirt::NoAnswer(options.uri, options.timeout);
  attempt.reset();
  return *std::move(opened);
}

// Until the connection is lost, or stopped; why.
absl::Status Watch::Follow(const DomainWatchOptions& options, const SharedBell& bell, Attempt& attempt, bool& reached) {
  const auto lib = libvirt::Load();
  if (!lib.ok()) return lib.status();
  auto connection = Connect(**lib, options, attempt);
  if (!connection.ok()) return connection.status();
  bell->Connected();
  Observer observer(**lib, *std::move(connection), bell, options);
  if (absl::Status status = observer.Subscribe(); !status.ok()) return status;
  while (!bell->stopped()) {
    Sighting sighting = observer.Look();
    if (bell->lost()) break;
    if (!sighting.status.ok()) return sighting.status;
    reached = true;
    const bool settled = std::all_of(sighting.domains.begin(), sighting.domains.end(),
                                     [](const SeenDomain& domain) { return domain.settled; });
    bell->Report(std::move(sighting));
    bell->Await(settled ? options.patience : options.first_retry);
    if (bell->lost()) break;
  }
  return absl::UnavailableError(
      absl::StrCat("libvirt at ", options.uri, ": the connection has ended; is its libvirtd running?"));
}

}  // namespace

std::unique_ptr<DomainSource> WatchDomains(DomainWatchOptions options, std::function<void(Sighting)> report) {
  return std::make_unique<Watch>(std::move(options), std::move(report));
}

}  // namespace everport::migration
