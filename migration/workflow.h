#pragma once

// Live migration of a domain between two hosts with everport on each, as named stages, each with its rollback. Here is
// what happens in which order and what is undone; how it is done is behind the three interfaces below.

#include <atomic>
#include <cstdint>
#include <functional>
#include <map>
#include <mutex>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "migration/domain.h"

namespace everport::migration {

// A port as its daemon's API tells of it.
struct PortView {
  std::string name, socket, mac, contract;
  unsigned queue_pairs = 1, mtu = 1500;
  uint32_t failback_delay_ms = 0;
  bool postcopy = false;  // its guest may arrive by post-copy
  std::string state;      // waiting, connected, running
  std::string reason;     // what is amiss, if anything
  bool has_path = false;
  std::string broken;   // why none of its uplinks works; empty: one does
  bool counts = true;   // false: a device serves the guest, whose frames nobody counts
  uint64_t frames = 0;  // both ways
};

// What is to be a port at the destination.
struct PortWish {
  PortView port;                     // name, socket, mac, contract, queue_pairs, mtu, failback_delay_ms, postcopy
  std::vector<std::string> uplinks;  // KIND:DEVICE[,…], best first
};

// What the source says of a port for the check against another host's contracts, as it is sent there.
struct Offer {
  std::string json;
};
// A difference between the two hosts' contracts.
struct Finding {
  std::string field, here, there;
  bool breaks = false;
  std::string why, mend;
};
struct Compatibility {
  bool compatible = false;
  std::vector<Finding> findings;
};

// The daemon of one host. Every error names the object, the cause and the mend.
class PortApi {
 public:
  virtual ~PortApi() = default;
  virtual std::string Address() const = 0;  // for words and commands: what --api takes
  virtual absl::StatusOr<std::vector<PortView>> Ports() = 0;
  // FailedPrecondition for a port of the configuration file, which cannot be removed lastingly; NotFound.
  virtual absl::Status Remove(const std::string& name) = 0;
};
class SourceApi : public PortApi {
 public:
  virtual absl::StatusOr<Offer> OfferOf(const PortView& port) = 0;
};
class DestinationApi : public PortApi {
 public:
  virtual absl::Status Ready() = 0;  // that a port that is made now would be served
  // As Ports, of a daemon that is given 2 s for its answer.
  virtual absl::StatusOr<std::vector<PortView>> PortsSoon() = 0;
  virtual absl::StatusOr<Compatibility> Check(const Offer& offer) = 0;
  // What there is to say of the new port, if anything. Unavailable and DeadlineExceeded: it may stand there all the
  // same; with any other error it does not.
  virtual absl::StatusOr<std::string> Add(const PortWish& wish) = 0;
};

struct Progress {
  uint64_t total = 0, transferred = 0, remaining = 0;  // bytes
  uint64_t dirty_bytes_per_s = 0;
  double expected_downtime_ms = 0;
  double elapsed_s = 0;
};
struct Account {  // of a migration that is over
  double downtime_ms = 0, total_ms = 0;
  uint64_t transferred = 0;
};

enum class Place {
  kSource,       // the guest runs there, and nowhere else
  kDestination,  // it has started there: there is no way back
  kUnknown,      // one of the hosts does not tell: whatever is undone might take the guest's network away
};

// How a migration is to go on.
enum class Pace {
  kGoOn,
  kHold,  // for now at most kHeldBytesPerS, so that the guest does not go over yet if there is more than that to send
  kAbort,
};
inline constexpr uint64_t kHeldBytesPerS = 1 << 20;

class Hypervisor {
 public:
  virtual ~Hypervisor() = default;
  virtual absl::StatusOr<Domain> Read() = 0;  // at the source
  // That the destination answers and has no such domain.
  virtual absl::Status CheckDestination() = 0;
  // Blocks. sockets: from the source's to the destination's. progress is called several times a second.
  virtual absl::Status Migrate(const std::map<std::string, std::string>& sockets,
                               const std::function<Pace(const Progress&)>& progress) = 0;
  virtual absl::StatusOr<Account> Reckon() = 0;  // after Migrate was OK
  // After it was not: lets the guest run on at the source if a failed migration has stopped it there and it has not
  // started at the destination.
  virtual Place Settle() = 0;
  // Removes from the destination the domain that waits there for a guest that does not come.
  virtual absl::Status CleanDestination() = 0;
  virtual std::string DestinationCommand() const = 0;  // "virsh -c URI"
};

// Told of each step, on the thread that runs the workflow. detail of kStarted: what the stage does; of kDone: what was
// found, if anything.
class Observer {
 public:
  enum class Event { kStarted, kDone, kFailed, kRolledBack, kRollbackFailed, kNote };
  virtual ~Observer() = default;
  virtual void OnStage(const std::string& stage, Event event, const std::string& detail) = 0;
  virtual void OnProgress(const Progress& progress) = 0;
};

struct Options {
  std::string domain;
  // KIND:DEVICE[,…] for ports that are made at the destination, best first; with PORT= before it for that one alone.
  // {port} stands for the port's name, {n} for its number among the domain's, from 0.
  std::vector<std::string> uplinks;
  std::string socket_dir;      // where QEMU makes its sockets at the destination; empty: where it does at the source
  bool postcopy = false;       // the hypervisor does so: ports on both sides must have it
  double cancel_after_s = -1;  // of sending memory; negative: never
  absl::Duration confirm = absl::Seconds(30);  // how long a port may take to run at the destination
  absl::Duration silence = absl::Seconds(5);   // and from then on, to the first frame
};

struct PortOutcome {
  std::string source, destination;  // names
  std::string source_socket, destination_socket;
  bool created = false;  // false: it stood there already
  bool removed = false;  // from the source
  std::string state;     // at the destination, when last seen
  uint64_t frames = 0;   // there, since the guest came
};

// Something that is there still, and what takes it away.
struct Leftover {
  std::string what, command;
};

struct Report {
  absl::Status status;  // OK: all done. Else cause, mend and what became of the rest, in one line
  Place place = Place::kSource;
  Account account;
  std::vector<PortOutcome> ports;
  std::vector<Compatibility> checks;  // one for each port
  std::vector<std::string> notes;
  std::vector<Leftover> left;
};

class Workflow {
 public:
  struct Stage {
    const char* name;
    const char* what;  // for --dry-run
    bool changes;      // something, so that a dry run leaves it out
    absl::Status (Workflow::*run)();
    // Undoes what run has done, be it a part. Null where nothing is to undo.
    absl::Status (Workflow::*rollback)();
  };
  static const std::vector<Stage>& Stages();  // in the order in which they run

  // All but options must outlive it. sleep: of tests.
  Workflow(Options options, SourceApi& source, DestinationApi& destination, Hypervisor& hypervisor, Observer& observer,
           std::function<void(absl::Duration)> sleep = absl::SleepFor);

  Report Run();
  // The stages that change nothing; the observer is told what the others would do.
  Report DryRun();

  // Any thread, also from within. Takes effect at the next step, unless the guest has gone by then.
  void Cancel() { cancelled_ = true; }
  // Any thread: what there would be to remove by hand if all ended now.
  std::vector<Leftover> Left() const;
  // Any thread: the hypervisors are at it, and go on by themselves.
  bool migrating() const { return migrating_; }

 private:
  struct Pair {
    PortView source;
    PortWish wish;
    bool create = false;
    bool created = false;
    uint64_t frames_before = 0;
  };

  absl::Status ReadDomain();
  absl::Status MatchPorts();
  absl::Status CheckDestination();
  absl::Status CheckContract();
  absl::Status PlanPorts();
  absl::Status CreatePorts();
  absl::Status RemoveCreated();
  absl::Status Migrate();
  absl::Status Unmigrate();
  absl::Status Confirm();
  absl::Status RemoveSource();

  absl::Status CheckUplinksAreOurs() const;
  absl::Status PlanPort(Pair& pair, size_t number, const std::vector<PortView>& there);
  Pace PaceFor(const Progress& progress);
  absl::Status DestinationServes();
  absl::Status ConfirmPort(const Pair& pair, PortOutcome& outcome);
  absl::Status RunStage(const Stage& stage);
  void RollBack(size_t failed);
  std::string WhatItWouldDo(const Stage& stage) const;
  absl::Status Failure(const absl::Status& cause);
  void Note(const std::string& text);
  void AddLeft(const Leftover& left);
  void TakeLeft(const std::string& what);

  const Options options_;
  SourceApi& source_;
  DestinationApi& destination_;
  Hypervisor& hypervisor_;
  Observer& observer_;
  const std::function<void(absl::Duration)> sleep_;
  std::atomic<bool> cancelled_{false}, migrating_{false};

  std::string stage_;  // that runs
  std::string found_;  // what it has to say when it is done
  Domain domain_;
  std::vector<Pair> pairs_;
  bool moving_ = false;                // Migrate has begun
  double asked_s_ = 0, served_s_ = 0;  // Progress::elapsed_s when the destination's daemon was asked, and served
  bool held_ = false;
  absl::Status destination_gone_;
  std::vector<std::string> undone_, not_undone_;
  std::vector<std::string> problems_;  // after the guest has gone: the work goes on
  Report report_;

  mutable std::mutex mutex_;
  std::vector<Leftover> left_;  // under mutex_
};

// Of one of Options::uplinks the PORT before "=", empty for one that is for all.
std::string PortOfUplink(const std::string& text);

// Of Options::uplinks those for this port, with the placeholders filled in.
std::vector<std::string> UplinksFor(const std::vector<std::string>& templates, const std::string& port, size_t number);

}  // namespace everport::migration
