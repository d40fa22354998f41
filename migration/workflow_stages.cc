// What each stage of the workflow does, and how it is undone.
#include <algorithm>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/strip.h"
#include "absl/time/clock.h"
#include "migration/workflow.h"

namespace everport::migration {
namespace {

constexpr absl::Duration kPoll = absl::Milliseconds(200);
// A daemon that has been killed is started anew by its service manager: so long its rollback waits for it.
constexpr absl::Duration kRestart = absl::Seconds(15);

// How long the destination's daemon may be away while memory is sent, and how often it is asked.
constexpr double kAway_s = 10, kAsk_s = 0.5;

std::string PortCommand(const PortApi& api, const std::string& port) {
  return absl::StrCat("everportctl --api ", api.Address(), " port remove ", port);
}

std::string PortAt(const PortApi& api, const std::string& port) {
  return absl::StrCat("port ", port, " at ", api.Address());
}

const PortView* Find(const std::vector<PortView>& ports, std::string PortView::*key, const std::string& value) {
  const auto found = std::find_if(ports.begin(), ports.end(), [&](const PortView& port) { return port.*key == value; });
  return found == ports.end() ? nullptr : &*found;
}

// How a port that stands at the destination differs from the one that is wanted; empty if it does not.
std::string Difference(const PortView& wanted, const PortView& there, bool postcopy) {
  const auto differs = [](const char* what, const auto& here, const auto& has) {
    return absl::StrCat("has ", what, " ", has, " where ", here, " is needed");
  };
  if (there.contract != wanted.contract) return differs("contract", wanted.contract, there.contract);
  if (there.mac != wanted.mac) return differs("mac", wanted.mac, there.mac);
  if (there.queue_pairs != wanted.queue_pairs) return differs("queue_pairs", wanted.queue_pairs, there.queue_pairs);
  if (there.mtu != wanted.mtu) return differs("mtu", wanted.mtu, there.mtu);
  if (postcopy && !there.postcopy) return differs("postcopy", "true", "false");
  return "";
}

std::string FindingText(const Finding& finding) {
  return absl::StrCat(finding.field, ": here ", finding.here, ", there ", finding.there, ": ", finding.why,
                      finding.mend.empty() ? "" : "; ", finding.mend);
}

}  // namespace

std::string PortOfUplink(const std::string& text) {
  // A KIND has no "=", a port's name no ":".
  const size_t equals = text.find('='), colon = text.find(':');
  return equals != std::string::npos && equals < colon ? text.substr(0, equals) : "";
}

std::vector<std::string> UplinksFor(const std::vector<std::string>& templates, const std::string& port, size_t number) {
  std::vector<std::string> own, common;
  for (const std::string& text : templates) {
    const std::string name = PortOfUplink(text);
    if (!name.empty() && name != port) continue;
    (name.empty() ? common : own)
        .push_back(absl::StrReplaceAll(name.empty() ? text : text.substr(name.size() + 1),
                                       {{"{port}", port}, {"{n}", absl::StrCat(number)}}));
  }
  return own.empty() ? common : own;
}

absl::Status Workflow::ReadDomain() {
  auto domain = hypervisor_.Read();
  if (!domain.ok()) return domain.status();
  domain_ = *std::move(domain);
  if (domain_.nics.empty()) {
    return absl::FailedPreconditionError(
        "the domain has no vhostuser interface, so nothing of it is everport's; migrate it with virsh migrate --live");
  }
  if (!domain_.shared_memory) {
    return absl::FailedPreconditionError(
        "the domain's memory is not shared, so its ports cannot work; put <memoryBacking><source type='memfd'/><access "
        "mode='shared'/></memoryBacking> into it and start it anew");
  }
  for (const Nic& nic : domain_.nics) {
    if (nic.server) continue;
    return absl::FailedPreconditionError(absl::StrCat("interface ", nic.mac, " on ", nic.socket,
                                                      ": QEMU is the client of that socket; write mode='server'"));
  }
  if (!domain_.running) {
    return absl::FailedPreconditionError("the domain does not run; start it, or move its definition by hand");
  }
  const size_t count = domain_.nics.size();
  found_ = absl::StrCat("runs, its memory is shared, ", count, " vhostuser interface", count == 1 ? "" : "s");
  return absl::OkStatus();
}

absl::Status Workflow::MatchPorts() {
  const auto ports = source_.Ports();
  if (!ports.ok()) return ports.status();
  for (const Nic& nic : domain_.nics) {
    const PortView* const port = Find(*ports, &PortView::socket, nic.socket);
    if (!port) {
      return absl::NotFoundError(
          absl::StrCat("interface ", nic.mac, ": no port at ", source_.Address(), " has its socket ", nic.socket,
                       "; is that the daemon that serves it? `everportctl ports` lists what it has"));
    }
    if (port->state == "waiting") {
      return absl::FailedPreconditionError(absl::StrCat(
          PortAt(source_, port->name), " does not serve the domain: ", port->reason, port->reason.empty() ? "" : "; ",
          "mend that first (`everportctl doctor`), or take the NIC out"));
    }
    Pair pair;
    pair.source = pair.wish.port = *port;
    pairs_.push_back(pair);
    report_.ports.push_back({.source = port->name,
                             .destination = port->name,
                             .source_socket = port->socket,
                             .destination_socket = port->socket,
                             .created = false,
                             .removed = false,
                             .state = "",
                             .frames = 0});
    absl::StrAppend(&found_, found_.empty() ? "port " : ", ", port->name);
  }
  return CheckUplinksAreOurs();
}

// One that is for a port the domain has not would be left out without a word.
absl::Status Workflow::CheckUplinksAreOurs() const {
  for (const std::string& text : options_.uplinks) {
    const std::string name = PortOfUplink(text);
    const auto is_it = [&](const Pair& pair) { return pair.source.name == name; };
    if (name.empty() || std::any_of(pairs_.begin(), pairs_.end(), is_it)) continue;
    return absl::InvalidArgumentError(absl::StrCat(
        "--dest-uplink ", text, ": the domain has no port ", name, "; it has ",
        absl::StrJoin(pairs_, ", ", [](std::string* out, const Pair& pair) { *out += pair.source.name; })));
  }
  return absl::OkStatus();
}

absl::Status Workflow::CheckDestination() {
  if (absl::Status status = destination_.Ready(); !status.ok()) {
    return absl::Status(status.code(), absl::StrCat("the destination's daemon: ", status.message()));
  }
  return hypervisor_.CheckDestination();
}

absl::Status Workflow::CheckContract() {
  std::vector<std::string> faults;
  for (const Pair& pair : pairs_) {
    if (options_.postcopy && !pair.source.postcopy) {
      faults.push_back(
          absl::StrCat(PortAt(source_, pair.source.name),
                       " does not offer post-copy; give it postcopy = true (its guest's session begins anew "
                       "then), or migrate without --postcopy"));
      continue;
    }
    const auto offer = source_.OfferOf(pair.source);
    if (!offer.ok()) return offer.status();
    auto answer = destination_.Check(*offer);
    if (!answer.ok()) return answer.status();
    report_.checks.push_back(*answer);
    if (answer->compatible) {
      absl::StrAppend(&found_, found_.empty() ? "" : ", ", pair.source.name, ": ", pair.source.contract, " fits");
      continue;
    }
    std::vector<std::string> texts;
    for (const Finding& finding : answer->findings) {
      if (finding.breaks) texts.push_back(FindingText(finding));
    }
    faults.push_back(absl::StrCat("port ", pair.source.name, " cannot live at ", destination_.Address(), ": ",
                                  texts.empty() ? "the contracts do not fit" : absl::StrJoin(texts, "; ")));
  }
  return faults.empty() ? absl::OkStatus() : absl::FailedPreconditionError(absl::StrJoin(faults, "; "));
}

absl::Status Workflow::PlanPorts() {
  const auto there = destination_.Ports();
  if (!there.ok()) return there.status();
  for (size_t i = 0; i < pairs_.size(); ++i) {
    if (absl::Status status = PlanPort(pairs_[i], i, *there); !status.ok()) return status;
    report_.ports[i].destination = pairs_[i].wish.port.name;
    report_.ports[i].destination_socket = pairs_[i].wish.port.socket;
  }
  return absl::OkStatus();
}

absl::Status Workflow::PlanPort(Pair& pair, size_t number, const std::vector<PortView>& there) {
  PortView& wanted = pair.wish.port;
  if (!options_.socket_dir.empty()) {
    wanted.socket = absl::StrCat(absl::StripSuffix(options_.socket_dir, "/"), "/",
                                 wanted.socket.substr(wanted.socket.rfind('/') + 1));
  }
  const PortView* port = Find(there, &PortView::name, wanted.name);
  if (!port) port = Find(there, &PortView::socket, wanted.socket);
  if (!port) {
    pair.create = true;
    pair.wish.uplinks = UplinksFor(options_.uplinks, wanted.name, number);
    if (!pair.wish.uplinks.empty()) return absl::OkStatus();
    return absl::FailedPreconditionError(absl::StrCat(
        "port ", wanted.name, ": the destination ", destination_.Address(),
        " has none of that name or socket, and it is not said with what uplinks to make it; give --dest-uplink "
        "KIND:DEVICE, for example --dest-uplink tap:ep-{port},bridge=br0, or set the port up there"));
  }
  const std::string difference = Difference(wanted, *port, options_.postcopy);
  if (!difference.empty()) {
    return absl::FailedPreconditionError(
        absl::StrCat(PortAt(destination_, port->name), " ", difference, "; change it there, or take it away"));
  }
  if (port->state != "waiting") {
    return absl::FailedPreconditionError(
        absl::StrCat(PortAt(destination_, port->name), " serves a guest already; take it away, or rename one of them"));
  }
  if (!port->broken.empty()) {
    return absl::FailedPreconditionError(absl::StrCat(PortAt(destination_, port->name), " has no uplink that works: ",
                                                      port->broken, "; mend it there, or take the port away"));
  }
  wanted = *port;  // its own socket
  pair.frames_before = port->frames;
  return absl::OkStatus();
}

absl::Status Workflow::CreatePorts() {
  for (size_t i = 0; i < pairs_.size(); ++i) {
    Pair& pair = pairs_[i];
    if (!pair.create) {
      absl::StrAppend(&found_, found_.empty() ? "" : ", ", "port ", pair.wish.port.name, " stands there");
      continue;
    }
    if (cancelled_) return absl::CancelledError("cancelled");
    const std::string& name = pair.wish.port.name;
    AddLeft({PortAt(destination_, name), PortCommand(destination_, name)});
    auto added = destination_.Add(pair.wish);
    if (absl::IsFailedPrecondition(added.status()) && pair.wish.port.postcopy && !options_.postcopy) {
      // No matter for this migration: a host of another kind must not be closed to the guest for it.
      pair.wish.port.postcopy = false;
      const std::string why(added.status().message());
      added = destination_.Add(pair.wish);
      if (added.ok()) Note(absl::StrCat("port ", name, " is made without postcopy: ", why));
    }
    // A daemon that died or was too slow may have made it all the same.
    pair.created = added.ok() || absl::IsUnavailable(added.status()) || absl::IsDeadlineExceeded(added.status());
    if (!pair.created) TakeLeft(PortAt(destination_, name));
    if (!added.ok()) return added.status();
    report_.ports[i].created = true;
    absl::StrAppend(&found_, found_.empty() ? "" : ", ", "port ", name, " made");
    if (!added->empty()) Note(*added);
  }
  return absl::OkStatus();
}

absl::Status Workflow::RemoveCreated() {
  std::vector<std::string> errors;
  for (size_t i = pairs_.size(); i-- > 0;) {
    Pair& pair = pairs_[i];
    if (!pair.created) continue;
    absl::Status status = destination_.Remove(pair.wish.port.name);
    for (absl::Duration waited; absl::IsUnavailable(status) && waited < kRestart; waited += kPoll) {
      sleep_(kPoll);
      status = destination_.Remove(pair.wish.port.name);
    }
    if (!status.ok() && !absl::IsNotFound(status)) {
      errors.emplace_back(status.message());
      continue;
    }
    pair.created = report_.ports[i].created = false;
    const std::string what = PortAt(destination_, pair.wish.port.name);
    TakeLeft(what);
    if (status.ok()) undone_.push_back(absl::StrCat(what, " removed"));
  }
  return errors.empty() ? absl::OkStatus() : absl::UnavailableError(absl::StrJoin(errors, "; "));
}

absl::Status Workflow::Migrate() {
  std::map<std::string, std::string> sockets;
  for (const Pair& pair : pairs_) sockets[pair.source.socket] = pair.wish.port.socket;
  const std::string what = absl::StrCat("domain ", options_.domain, " at the destination");
  AddLeft({what, absl::StrCat(hypervisor_.DestinationCommand(), " destroy ", options_.domain)});
  moving_ = migrating_ = true;
  absl::Status status = hypervisor_.Migrate(sockets, [this](const Progress& progress) {
    observer_.OnProgress(progress);
    if (options_.cancel_after_s >= 0 && progress.elapsed_s >= options_.cancel_after_s) cancelled_ = true;
    return PaceFor(progress);
  });
  report_.place = status.ok() ? Place::kDestination : hypervisor_.Settle();
  migrating_ = report_.place == Place::kUnknown;
  if (!status.ok() && !destination_gone_.ok()) status = destination_gone_;
  if (report_.place != Place::kDestination) return status;
  TakeLeft(what);
  for (const Pair& pair : pairs_) {
    TakeLeft(PortAt(destination_, pair.wish.port.name));  // the guest's now
    AddLeft({PortAt(source_, pair.source.name), PortCommand(source_, pair.source.name)});
  }
  if (cancelled_) Note("too late to cancel: the guest runs at the destination");
  if (!status.ok()) return status;
  auto account = hypervisor_.Reckon();
  if (account.ok()) {
    report_.account = *account;
  } else {
    Note(absl::StrCat("how long the guest was away is not known: ", account.status().message()));
  }
  return absl::OkStatus();
}

// That its daemon answers, and has the ports still. NotFound: it has not, for good.
absl::Status Workflow::DestinationServes() {
  const auto there = destination_.PortsSoon();
  if (!there.ok()) {
    return absl::UnavailableError(
        absl::StrCat("the destination's daemon has gone meanwhile: ", there.status().message()));
  }
  for (const Pair& pair : pairs_) {
    const std::string& name = pair.wish.port.name;
    if (Find(*there, &PortView::name, name)) continue;
    return absl::NotFoundError(
        absl::StrCat(PortAt(destination_, name), " was taken away meanwhile; leave it there, and begin anew"));
  }
  return absl::OkStatus();
}

// A guest that arrived where no daemon is would have no network; here it has. A daemon that is started anew is no
// fault: as long as it may be away, the guest is held here by sending little, if there is so much to send yet.
Pace Workflow::PaceFor(const Progress& progress) {
  const double now_s = progress.elapsed_s;
  if (cancelled_ || !destination_gone_.ok()) return Pace::kAbort;
  if (now_s < asked_s_ + kAsk_s) return held_ ? Pace::kHold : Pace::kGoOn;
  asked_s_ = now_s;
  const absl::Status serves = DestinationServes();
  if (serves.ok()) {
    served_s_ = now_s;
    if (std::exchange(held_, false)) Note("the destination's daemon is there again; the migration goes on");
    return Pace::kGoOn;
  }
  const bool over_soon = progress.total > 0 && progress.remaining < kAway_s * kHeldBytesPerS;
  if (absl::IsNotFound(serves) || over_soon || now_s > served_s_ + kAway_s) {
    destination_gone_ = serves;
    return Pace::kAbort;
  }
  if (!std::exchange(held_, true)) {
    Note(absl::StrCat(serves.message(), "; the migration is slowed down, and given up if it is not back in ", kAway_s,
                      " s"));
  }
  return Pace::kHold;
}

absl::Status Workflow::Unmigrate() {
  if (!moving_) return absl::OkStatus();
  absl::Status status = hypervisor_.CleanDestination();
  if (status.ok()) TakeLeft(absl::StrCat("domain ", options_.domain, " at the destination"));
  return status;
}

absl::Status Workflow::Confirm() {
  std::vector<std::string> errors;
  for (size_t i = 0; i < pairs_.size(); ++i) {
    const absl::Status status = ConfirmPort(pairs_[i], report_.ports[i]);
    if (!status.ok()) errors.emplace_back(status.message());
  }
  return errors.empty() ? absl::OkStatus() : absl::FailedPreconditionError(absl::StrJoin(errors, "; "));
}

absl::Status Workflow::ConfirmPort(const Pair& pair, PortOutcome& outcome) {
  const std::string& name = pair.wish.port.name;
  const absl::Time end = absl::Now() + options_.confirm;
  absl::Duration waited, running;
  std::string seen;
  for (; waited <= options_.confirm && absl::Now() < end; waited += kPoll, sleep_(kPoll)) {
    const auto ports = destination_.Ports();  // which may fail: a daemon that has died is started anew
    const PortView* const port = ports.ok() ? Find(*ports, &PortView::name, name) : nullptr;
    if (!port) {
      seen = ports.ok() ? "it is not there" : std::string(ports.status().message());
      continue;
    }
    outcome.state = port->state;
    // A daemon that was started anew counts from 0.
    outcome.frames = port->frames >= pair.frames_before ? port->frames - pair.frames_before : port->frames;
    seen = absl::StrCat("it is ", port->state, port->reason.empty() ? "" : ": ", port->reason);
    if (port->state != "running") continue;
    if (!port->has_path) {
      seen = "it has no path";
      continue;
    }
    if (!port->counts || outcome.frames > 0) return absl::OkStatus();
    if ((running += kPoll) < options_.silence) continue;
    Note(absl::StrCat("port ", name, " runs at the destination; no frame came or went within ",
                      absl::FormatDuration(options_.silence)));
    return absl::OkStatus();
  }
  return absl::DeadlineExceededError(absl::StrCat(PortAt(destination_, name), " does not serve the guest: ", seen,
                                                  "; see `everportctl --api ", destination_.Address(), " port show ",
                                                  name, "`"));
}

absl::Status Workflow::RemoveSource() {
  std::vector<std::string> errors;
  for (size_t i = 0; i < pairs_.size(); ++i) {
    const std::string& name = pairs_[i].source.name;
    const absl::Status status = source_.Remove(name);
    report_.ports[i].removed = status.ok() || absl::IsNotFound(status);
    if (!report_.ports[i].removed && !absl::IsFailedPrecondition(status)) {
      errors.push_back(absl::StrCat(PortAt(source_, name), " is still there: ", status.message(), "; remove it with `",
                                    PortCommand(source_, name), "`"));
      continue;
    }
    TakeLeft(PortAt(source_, name));
    if (!report_.ports[i].removed) Note(absl::StrCat("it stays at the source: ", status.message()));
  }
  return errors.empty() ? absl::OkStatus() : absl::UnavailableError(absl::StrJoin(errors, "; "));
}

}  // namespace everport::migration
