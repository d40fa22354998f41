#include "migration/workflow.h"

#include <algorithm>
#include <iterator>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

namespace everport::migration {

using Event = Observer::Event;

const std::vector<Workflow::Stage>& Workflow::Stages() {
  static const std::vector<Stage> stages = {
      {"domain", "read the domain: it runs, its memory is shared, its vhostuser interfaces", false,
       &Workflow::ReadDomain, nullptr},
      {"match", "find the source's port of each interface, by socket", false, &Workflow::MatchPorts, nullptr},
      {"destination", "ask the destination's libvirt and daemon whether they can take the guest", false,
       &Workflow::CheckDestination, nullptr},
      {"contract", "check each port's contract against the destination's", false, &Workflow::CheckContract, nullptr},
      {"plan", "see which ports the destination has, and which are to be made", false, &Workflow::PlanPorts, nullptr},
      {"create", "make the missing ports at the destination", true, &Workflow::CreatePorts, &Workflow::RemoveCreated},
      {"migrate", "have libvirt move the guest, which runs on meanwhile", true, &Workflow::Migrate,
       &Workflow::Unmigrate},
      {"confirm", "wait until each port runs at the destination and frames go through it", true, &Workflow::Confirm,
       nullptr},
      {"remove", "remove the source's ports", true, &Workflow::RemoveSource, nullptr},
  };
  return stages;
}

Workflow::Workflow(Options options, SourceApi& source, DestinationApi& destination, Hypervisor& hypervisor,
                   Observer& observer, std::function<void(absl::Duration)> sleep)
    : options_(std::move(options)),
      source_(source),
      destination_(destination),
      hypervisor_(hypervisor),
      observer_(observer),
      sleep_(std::move(sleep)) {}

absl::Status Workflow::RunStage(const Stage& stage) {
  stage_ = stage.name;
  // Once the guest has gone there is nothing to cancel.
  if (cancelled_ && report_.place == Place::kSource) return absl::CancelledError("cancelled");
  observer_.OnStage(stage.name, Event::kStarted, stage.what);
  found_.clear();
  absl::Status status = (this->*stage.run)();
  observer_.OnStage(stage.name, status.ok() ? Event::kDone : Event::kFailed,
                    status.ok() ? found_ : std::string(status.message()));
  return status;
}

Report Workflow::Run() {
  for (size_t i = 0; i < Stages().size(); ++i) {
    const absl::Status status = RunStage(Stages()[i]);
    if (status.ok()) continue;
    if (report_.place == Place::kDestination) {  // no way back: what can be done is done
      problems_.emplace_back(status.message());
      continue;
    }
    if (report_.place == Place::kSource) RollBack(i);
    report_.status = Failure(status);
    report_.left = Left();
    return report_;
  }
  if (!problems_.empty()) {
    report_.status = absl::FailedPreconditionError(absl::StrCat(
        options_.domain, ": the guest runs at the destination, but: ", absl::StrJoin(problems_, "; also: ")));
  }
  report_.left = Left();
  return report_;
}

Report Workflow::DryRun() {
  for (const Stage& stage : Stages()) {
    if (stage.changes) {
      observer_.OnStage(stage.name, Event::kNote, "would " + WhatItWouldDo(stage));
      continue;
    }
    report_.status = RunStage(stage);
    if (report_.status.ok()) continue;
    report_.status = absl::Status(report_.status.code(), absl::StrCat(options_.domain, ": ", report_.status.message()));
    break;
  }
  for (size_t i = 0; i < pairs_.size(); ++i) report_.ports[i].created = pairs_[i].create;
  return report_;
}

std::string Workflow::WhatItWouldDo(const Stage& stage) const {
  if (stage.run != &Workflow::CreatePorts) return stage.what;
  std::vector<std::string> each;
  for (const Pair& pair : pairs_) {
    const PortView& port = pair.wish.port;
    each.push_back(pair.create ? absl::StrCat("make port ", port.name, " on ", port.socket, " with ",
                                              absl::StrJoin(pair.wish.uplinks, ", "))
                               : absl::StrCat("use port ", port.name, " on ", port.socket, " as it is"));
  }
  return absl::StrJoin(each, "; ");
}

// The failing stage as well: it may have done a part.
void Workflow::RollBack(size_t failed) {
  for (size_t i = failed + 1; i-- > 0;) {
    const Stage& stage = Stages()[i];
    if (!stage.rollback) continue;
    const size_t before = undone_.size();
    const absl::Status status = (this->*stage.rollback)();
    const bool something = undone_.size() > before;
    if (!status.ok()) {
      not_undone_.emplace_back(status.message());
      observer_.OnStage(stage.name, Event::kRollbackFailed, std::string(status.message()));
    } else if (something) {
      observer_.OnStage(stage.name, Event::kRolledBack,
                        absl::StrJoin(undone_.begin() + static_cast<std::ptrdiff_t>(before), undone_.end(), ", "));
    }
    if (report_.place != Place::kSource) return;
  }
}

absl::Status Workflow::Failure(const absl::Status& cause) {
  std::string text = absl::StrCat(options_.domain, ": ", cause.message());
  if (!undone_.empty()) absl::StrAppend(&text, "; rolled back: ", absl::StrJoin(undone_, ", "));
  if (!not_undone_.empty()) absl::StrAppend(&text, "; not rolled back: ", absl::StrJoin(not_undone_, ", "));
  const bool lost = report_.place == Place::kUnknown;
  if (lost) {
    absl::StrAppend(&text, "; nothing was rolled back, as it is not known on which host the guest runs: see `",
                    hypervisor_.DestinationCommand(), " domstate ", options_.domain,
                    "` and the source's, and if it is the source:");
  }
  for (const Leftover& left : Left()) {
    absl::StrAppend(&text, lost ? " " : "; left behind: ", left.what, ", take it away with `", left.command, "`",
                    lost ? ";" : "");
  }
  if (moving_ && report_.place == Place::kSource) absl::StrAppend(&text, "; the guest runs on at the source");
  return absl::Status(cause.code(), text);
}

void Workflow::Note(const std::string& text) {
  report_.notes.push_back(text);
  observer_.OnStage(stage_, Event::kNote, text);
}

void Workflow::AddLeft(const Leftover& left) {
  const std::lock_guard lock(mutex_);
  left_.push_back(left);
}

void Workflow::TakeLeft(const std::string& what) {
  const std::lock_guard lock(mutex_);
  left_.erase(std::remove_if(left_.begin(), left_.end(), [&](const Leftover& left) { return left.what == what; }),
              left_.end());
}

std::vector<Leftover> Workflow::Left() const {
  const std::lock_guard lock(mutex_);
  return left_;
}

}  // namespace everport::migration
