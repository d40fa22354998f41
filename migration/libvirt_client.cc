#include "migration/libvirt_client.h"

#include <algorithm>
#include <cstdlib>
#include <optional>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "migration/domain_xml.h"
#include "migration/libvirt_library.h"

namespace everport::migration {
namespace {

using libvirt::Connect;
using libvirt::Connection;
using libvirt::DomainRef;
using libvirt::LastError;
using libvirt::Lib;
using libvirt::LibvirtError;
using libvirt::Load;
using libvirt::StatusOf;
using libvirt::Waited;

constexpr absl::Duration kPoll = absl::Milliseconds(100);
constexpr absl::Duration kOwnCleanup = absl::Seconds(5);  // libvirt removes by itself what a failed migration has left

class TypedParams {
 public:
  explicit TypedParams(const Lib& lib) : lib_(lib) {}
  ~TypedParams() { lib_.virTypedParamsFree(params, count); }
  TypedParams(const TypedParams&) = delete;
  TypedParams& operator=(const TypedParams&) = delete;

  uint64_t Number(const char* name) const {  // 0 if there is none
    unsigned long long value = 0;
    return lib_.virTypedParamsGetULLong(params, count, name, &value) == 1 ? value : 0;
  }
  void Add(const char* name, const std::string& text) {
    if (!text.empty()) lib_.virTypedParamsAddString(&params, &count, &room_, name, text.c_str());
  }
  void Add(const char* name, uint64_t number) {
    if (number > 0) lib_.virTypedParamsAddULLong(&params, &count, &room_, name, number);
  }

  virTypedParameterPtr params = nullptr;
  int count = 0;

 private:
  const Lib& lib_;
  int room_ = 0;
};

enum class State { kNone, kInactive, kRunning, kPaused, kPausedMigrating, kPostCopy, kUnknown };

class LibvirtClient : public Hypervisor {
 public:
  explicit LibvirtClient(LibvirtOptions options) : options_(std::move(options)) {}

  absl::StatusOr<Domain> Read() override;
  absl::Status CheckDestination() override;
  absl::Status Migrate(const std::map<std::string, std::string>& sockets,
                       const std::function<Pace(const Progress&)>& progress) override;
  absl::StatusOr<Account> Reckon() override;
  Place Settle() override;
  absl::Status CleanDestination() override;
  std::string DestinationCommand() const override { return absl::StrCat("virsh -c '", options_.to, "'"); }

 private:
  absl::StatusOr<DomainRef> Lookup(const Connection& connection, const std::string& uri) const;
  absl::StatusOr<std::string> Xml(unsigned flags) const;
  State StateOf(const DomainRef& domain) const;
  State StateAt(const Connection& connection, const std::string& uri) const;
  State StateNow(Connection& connection, const std::string& uri);
  State StateAtDestination() { return StateNow(destination_, options_.to); }
  absl::Status Start(const std::map<std::string, std::string>& sockets);
  absl::Status Follow(const std::function<Pace(const Progress&)>& progress);
  void Hold(bool held);
  struct Job {
    bool active = false;
    uint64_t iteration = 0;
    Progress progress;
  };
  std::optional<Job> ReadJob(const DomainRef& domain, unsigned flags, Account* account) const;

  const LibvirtOptions options_;
  const Lib* lib_ = nullptr;
  Connection source_, destination_;
  DomainRef domain_;  // at the source
  std::string uuid_;
  std::optional<Waited<LibvirtError>> move_;
  bool held_ = false;
  std::optional<unsigned long> speed_before_;  // MiB/s, the domain's own, once the migration has been held
};

absl::StatusOr<Domain> LibvirtClient::Read() {
  const auto lib = Load();
  if (!lib.ok()) return lib.status();
  lib_ = *lib;
  auto connection = Connect(*lib_, options_.from, options_.timeout);
  if (!connection.ok()) return connection.status();
  source_ = *std::move(connection);
  auto found = Lookup(source_, options_.from);
  if (!found.ok()) return found.status();
  domain_ = *std::move(found);
  char uuid[VIR_UUID_STRING_BUFLEN] = "";
  lib_->virDomainGetUUIDString(domain_.get(), uuid);
  uuid_ = uuid;
  const auto xml = Xml(VIR_DOMAIN_XML_MIGRATABLE | VIR_DOMAIN_XML_SECURE);
  if (!xml.ok()) return xml.status();
  auto domain = ParseDomain(*xml);
  if (domain.ok()) domain->running = StateOf(domain_) == State::kRunning;
  return domain;
}

// By its UUID once that is known: a name may be another domain's on the other host.
absl::StatusOr<DomainRef> LibvirtClient::Lookup(const Connection& connection, const std::string& uri) const {
  virDomainPtr found = nullptr;
  if (!uuid_.empty()) {
    found = lib_->virDomainLookupByUUIDString(connection.get(), uuid_.c_str());
  } else if (found = lib_->virDomainLookupByName(connection.get(), options_.domain.c_str()); !found) {
    const LibvirtError error = LastError(*lib_);
    found = lib_->virDomainLookupByUUIDString(connection.get(), options_.domain.c_str());
    if (!found && error.code == VIR_ERR_NO_DOMAIN) {
      return absl::NotFoundError(absl::StrCat("there is no such domain at ", uri, "; `virsh -c '", uri,
                                              "' list --all` lists those there are"));
    }
  }
  if (!found) return StatusOf(LastError(*lib_), absl::StrCat("the domain at ", uri));
  return DomainRef(found, lib_->virDomainFree);
}

absl::StatusOr<std::string> LibvirtClient::Xml(unsigned flags) const {
  char* const text = lib_->virDomainGetXMLDesc(domain_.get(), flags);
  if (!text) return StatusOf(LastError(*lib_), "the domain's XML");
  std::string xml(text);
  ::free(text);
  return xml;
}

State LibvirtClient::StateOf(const DomainRef& domain) const {
  int state = 0, reason = 0;
  if (lib_->virDomainGetState(domain.get(), &state, &reason, 0) < 0) {
    return lib_->virGetLastErrorCode() == VIR_ERR_NO_DOMAIN ? State::kNone : State::kUnknown;
  }
  switch (state) {
    case VIR_DOMAIN_RUNNING:
    case VIR_DOMAIN_BLOCKED:
      return State::kRunning;
    case VIR_DOMAIN_SHUTDOWN:
    case VIR_DOMAIN_SHUTOFF:
    case VIR_DOMAIN_CRASHED:
      return State::kInactive;
    default:
      if (reason == VIR_DOMAIN_PAUSED_POSTCOPY || reason == VIR_DOMAIN_PAUSED_POSTCOPY_FAILED) return State::kPostCopy;
      return reason == VIR_DOMAIN_PAUSED_MIGRATION ? State::kPausedMigrating : State::kPaused;
  }
}

State LibvirtClient::StateAt(const Connection& connection, const std::string& uri) const {
  const auto domain = Lookup(connection, uri);
  if (domain.ok()) return StateOf(*domain);
  return absl::IsNotFound(domain.status()) ? State::kNone : State::kUnknown;
}

// With a new connection if the one from before has died meanwhile.
State LibvirtClient::StateNow(Connection& connection, const std::string& uri) {
  const State state = connection ? StateAt(connection, uri) : State::kUnknown;
  if (state != State::kUnknown) return state;
  auto again = Connect(*lib_, uri, std::min(options_.timeout, absl::Seconds(10)));
  if (!again.ok()) return State::kUnknown;
  connection = *std::move(again);
  return StateAt(connection, uri);
}

absl::Status LibvirtClient::CheckDestination() {
  auto connection = Connect(*lib_, options_.to, options_.timeout);
  if (!connection.ok()) return connection.status();
  destination_ = *std::move(connection);
  const State state = StateAt(destination_, options_.to);
  if (state == State::kNone || state == State::kInactive) return absl::OkStatus();  // a definition may stand there
  if (state == State::kUnknown) return StatusOf(LastError(*lib_), absl::StrCat("libvirt at ", options_.to));
  const std::string active = absl::StrCat("the domain is active at the destination ", options_.to,
                                          " already; is that another host than the ", "source?");
  // One that runs may be the guest itself.
  if (state == State::kRunning || state == State::kPostCopy) return absl::FailedPreconditionError(active);
  return absl::FailedPreconditionError(
      absl::StrCat(active, " If it is, and no other migration is under way (virsh -c '", options_.from, "' domjobinfo ",
                   options_.domain, "), a failed one has left it: take it away by ", DestinationCommand(), " destroy ",
                   options_.domain));
}

absl::Status LibvirtClient::Start(const std::map<std::string, std::string>& sockets) {
  const auto live = Xml(VIR_DOMAIN_XML_MIGRATABLE | VIR_DOMAIN_XML_SECURE);
  if (!live.ok()) return live.status();
  const auto wanted = WithSockets(*live, sockets);
  if (!wanted.ok()) return wanted.status();
  auto params = std::make_shared<TypedParams>(*lib_);
  params->Add(VIR_MIGRATE_PARAM_DEST_XML, *wanted);
  params->Add(VIR_MIGRATE_PARAM_URI, options_.migrate_uri);
  params->Add(VIR_MIGRATE_PARAM_BANDWIDTH, options_.bandwidth_mib_s);
  unsigned flags = VIR_MIGRATE_LIVE | VIR_MIGRATE_PEER2PEER;
  if (options_.postcopy) flags |= VIR_MIGRATE_POSTCOPY;
  if (lib_->virDomainIsPersistent(domain_.get()) == 1) {  // it stays so, and is defined on one host
    const auto inactive = Xml(VIR_DOMAIN_XML_INACTIVE | VIR_DOMAIN_XML_MIGRATABLE | VIR_DOMAIN_XML_SECURE);
    if (!inactive.ok()) return inactive.status();
    const auto persistent = WithSockets(*inactive, sockets);
    if (!persistent.ok()) return persistent.status();
    params->Add(VIR_MIGRATE_PARAM_PERSIST_XML, *persistent);
    flags |= VIR_MIGRATE_PERSIST_DEST | VIR_MIGRATE_UNDEFINE_SOURCE;
  }
  move_.emplace([lib = lib_, source = source_, domain = domain_, params, flags, to = options_.to] {
    const int result = lib->virDomainMigrateToURI3(domain.get(), to.c_str(), params->params,
                                                   static_cast<unsigned>(params->count), flags);
    return result == 0 ? LibvirtError{} : LastError(*lib);
  });
  return absl::OkStatus();
}

std::optional<LibvirtClient::Job> LibvirtClient::ReadJob(const DomainRef& domain, unsigned flags,
                                                         Account* account) const {
  TypedParams params(*lib_);
  int type = VIR_DOMAIN_JOB_NONE;
  if (lib_->virDomainGetJobStats(domain.get(), &type, &params.params, &params.count, flags) < 0) return std::nullopt;
  Job job;
  job.active = type != VIR_DOMAIN_JOB_NONE;
  job.iteration = params.Number(VIR_DOMAIN_JOB_MEMORY_ITERATION);
  job.progress = {.total = params.Number(VIR_DOMAIN_JOB_DATA_TOTAL),
                  .transferred = params.Number(VIR_DOMAIN_JOB_DATA_PROCESSED),
                  .remaining = params.Number(VIR_DOMAIN_JOB_DATA_REMAINING),
                  .dirty_bytes_per_s =
                      params.Number(VIR_DOMAIN_JOB_MEMORY_DIRTY_RATE) * params.Number(VIR_DOMAIN_JOB_MEMORY_PAGE_SIZE),
                  .expected_downtime_ms = static_cast<double>(params.Number(VIR_DOMAIN_JOB_DOWNTIME)),
                  .elapsed_s = 0};
  if (account) {
    *account = {.downtime_ms = job.progress.expected_downtime_ms,
                .total_ms = static_cast<double>(params.Number(VIR_DOMAIN_JOB_TIME_ELAPSED)),
                .transferred = job.progress.transferred};
  }
  return job;
}

absl::Status LibvirtClient::Migrate(const std::map<std::string, std::string>& sockets,
                                    const std::function<Pace(const Progress&)>& progress) {
  if (absl::Status status = Start(sockets); !status.ok()) return status;
  absl::Status status = Follow(progress);
  // Of a domain that stays libvirt remembers it for its next migration; where the guest has gone it fails.
  if (speed_before_) (void)lib_->virDomainMigrateSetMaxSpeed(domain_.get(), *std::exchange(speed_before_, {}), 0);
  held_ = false;
  return status;
}

// Refused while there is nothing to hold yet; what cannot be held is let go on, and the workflow aborts it in time.
void LibvirtClient::Hold(bool held) {
  constexpr unsigned long kHeldMib = kHeldBytesPerS >> 20;
  if (held == held_) return;
  if (unsigned long now = 0; !speed_before_) {
    if (lib_->virDomainMigrateGetMaxSpeed(domain_.get(), &now, 0) != 0) return;
    speed_before_ = now;
  }
  const unsigned long free = options_.bandwidth_mib_s != 0 ? options_.bandwidth_mib_s : *speed_before_;
  if (lib_->virDomainMigrateSetMaxSpeed(domain_.get(), held ? kHeldMib : free, 0) == 0) held_ = held;
}

absl::Status LibvirtClient::Follow(const std::function<Pace(const Progress&)>& progress) {
  const absl::Time start = absl::Now();
  absl::Time moved = start, abort_at = absl::InfiniteFuture();
  uint64_t transferred = 0;
  bool postcopy = false, cancelled = false;
  while (true) {
    if (const auto ended = move_->Wait(kPoll)) {
      move_.reset();
      if (ended->code == VIR_ERR_OK) return absl::OkStatus();
      if (cancelled) return absl::CancelledError("cancelled");
      const bool postcopy_refused =
          options_.postcopy && absl::StrContains(absl::AsciiStrToLower(ended->text), "postcopy");
      absl::Status status =
          StatusOf(*ended, "libvirt",
                   postcopy_refused ? "migrate without --postcopy" : "see the logs of libvirtd and QEMU on both hosts");
      if (abort_at == absl::InfiniteFuture()) return status;
      const std::string after = absl::FormatDuration(options_.timeout);
      return absl::DeadlineExceededError(absl::StrCat(
          transferred == 0
              ? absl::StrCat("nothing was sent within ", after, ": the destination was still preparing the guest's ",
                             "memory, for which a longer --timeout gives time, or has stopped answering; ")
              : absl::StrCat("no progress for ", after, ": the destination has stopped answering; "),
          status.message()));
    }
    const absl::Time now = absl::Now();
    std::optional<Job> job = ReadJob(domain_, 0, nullptr);
    if (job && job->progress.transferred != transferred) {
      transferred = job->progress.transferred;
      moved = now;
    }
    if (!job) job.emplace();
    job->progress.elapsed_s = absl::ToDoubleSeconds(now - start);
    const Pace pace = progress(job->progress);
    // The guest has left: there is no way back, and libvirt's own call ends when there is none ahead either.
    if (postcopy) continue;
    if (pace == Pace::kAbort) cancelled = true;
    if (!cancelled) Hold(pace == Pace::kHold);
    if ((cancelled || now - moved > options_.timeout) && abort_at == absl::InfiniteFuture()) abort_at = now;
    // Refused while there is no job yet: until it is not, again.
    if (now >= abort_at) (void)lib_->virDomainAbortJob(domain_.get());
    if (now - abort_at > options_.timeout) {
      return absl::DeadlineExceededError("libvirt at the source does not end the migration; see its log");
    }
    if (options_.postcopy && abort_at == absl::InfiniteFuture() && job->iteration > 1) {
      postcopy = lib_->virDomainMigrateStartPostCopy(domain_.get(), 0) == 0;
    }
  }
}

absl::StatusOr<Account> LibvirtClient::Reckon() {
  const auto domain = Lookup(destination_, options_.to);
  if (!domain.ok()) return domain.status();
  Account account;
  if (ReadJob(*domain, VIR_DOMAIN_JOB_STATS_COMPLETED, &account)) {
    if (account.total_ms > 0) return account;
    return absl::NotFoundError("the destination's libvirt has no account of it");  // 11.3, of post-copy
  }
  return StatusOf(LastError(*lib_), "libvirt's account of the migration");
}

Place LibvirtClient::Settle() {
  const State here = StateNow(source_, options_.from);
  if (here == State::kRunning || here == State::kPaused) {  // kPaused: by somebody, not by us
    // The migration that was given up goes on as long as its call: the guest may yet come to the domain over there.
    return !move_ || CleanDestination().ok() ? Place::kSource : Place::kUnknown;
  }
  const State there = StateAtDestination();
  if (there == State::kRunning) return Place::kDestination;
  if (here != State::kPausedMigrating) return Place::kUnknown;
  // It has not started there, and cannot once its domain there has gone.
  if (!CleanDestination().ok()) return Place::kUnknown;
  const auto domain = Lookup(source_, options_.from);
  return domain.ok() && lib_->virDomainResume(domain->get()) == 0 ? Place::kSource : Place::kUnknown;
}

absl::Status LibvirtClient::CleanDestination() {
  State state = StateAtDestination();
  const auto gone = [&] { return state == State::kNone || state == State::kInactive; };
  for (absl::Duration waited; !gone() && state != State::kUnknown && waited < kOwnCleanup; waited += kPoll) {
    absl::SleepFor(kPoll);
    state = StateAtDestination();
  }
  if (gone()) return absl::OkStatus();
  if (state == State::kUnknown) {
    return absl::UnavailableError(absl::StrCat("libvirt at ", options_.to, " does not answer, so whether the domain ",
                                               "waits there is not known; it removes it by itself when it is back"));
  }
  if (state == State::kRunning) {
    return absl::FailedPreconditionError(absl::StrCat("the domain runs at ", options_.to, " as well"));
  }
  const auto domain = Lookup(destination_, options_.to);
  if (absl::IsNotFound(domain.status())) return absl::OkStatus();
  if (!domain.ok()) return domain.status();
  if (lib_->virDomainDestroy(domain->get()) == 0) return absl::OkStatus();
  return StatusOf(LastError(*lib_), absl::StrCat("the domain at ", options_.to));
}

}  // namespace

std::unique_ptr<Hypervisor> MakeLibvirtClient(LibvirtOptions options) {
  return std::make_unique<LibvirtClient>(std::move(options));
}

}  // namespace everport::migration
