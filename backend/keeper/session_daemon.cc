// The daemon's side of a session: replay, forwarding, its replies.

#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "backend/keeper/session.h"

namespace everport {

using vhost_user::Message;
using vhost_user::PayloadAs;
using vhost_user::Request;
using vhost_user::RequestText;

Actions Session::DaemonConnected() {
  if (link_ != Link::kNone) return Take();
  link_ = Link::kIdle;
  if (connected_) BeginReplay();
  return Take();
}

Actions Session::DaemonGone(const std::string& reason) {
  if (link_ == Link::kNone) return Take();
  const bool held = link_ != Link::kIdle;
  LoseDaemon();
  if (pending_) Settle(*std::exchange(pending_, std::nullopt), 0);
  if (held && connected_) Put(Note{absl::StrCat("no daemon: ", reason, "; the guest's session is kept")});
  if (connected_ && record_.listening()) UpdateState(reason_);
  return Take();
}

Actions Session::DaemonMessage(Message message) {
  if (link_ == Link::kNone) return Take();
  if (expected_.empty() || message.request != expected_.front().request || !(message.flags & vhost_user::kFlagReply) ||
      (message.flags & vhost_user::kVersionMask) != vhost_user::kVersion) {
    DropDaemon(absl::StrCat("the daemon sent ", RequestText(message.request), " unasked"), true);
    return Take();
  }
  const DaemonStep step = expected_.front();
  expected_.pop_front();
  if (absl::Status status = TakeReply(step, message); !status.ok()) {
    DropDaemon(std::string(status.message()), true);
    return Take();
  }
  if (!expected_.empty()) return Take();
  if (link_ == Link::kReplaying) {
    plan_sent_ ? FinishReplay() : ContinueReplay();
  } else {
    if (std::exchange(deadline_armed_, false)) Put(DisarmDeadline{});
    if (pending_) Settle(*std::exchange(pending_, std::nullopt), 0);
  }
  return Take();
}

void Session::BeginReplay() {
  link_ = Link::kReplaying;
  plan_sent_ = false;
  Arm();
  SendStep({Request::kGetFeatures});
  SendStep({Request::kGetProtocolFeatures});
}

void Session::ContinueReplay() {
  if (!(daemon_protocol_ >> vhost_user::kProtocolReplyAck & 1))
    return DropDaemon("the daemon does not offer the protocol feature REPLY_ACK", true);
  RecoverStartedBases();
  plan_sent_ = true;
  for (const DaemonStep& step : PlanReplay(record_, daemon_protocol_, vrings())) {
    SendStep(step);
    if (link_ != Link::kReplaying) return;  // SendStep gave it up
  }
}

void Session::FinishReplay() {
  link_ = Link::kSynced;
  if (std::exchange(deadline_armed_, false)) Put(DisarmDeadline{});
  Put(Synced{});
  std::vector<unsigned> rings;
  for (unsigned ring = 0; ring < vrings(); ++ring)
    if (record_.vrings[ring].started()) rings.push_back(ring);
  if (!rings.empty()) Put(SignalCalls{std::move(rings)});
  if (pending_) Settle(*std::exchange(pending_, std::nullopt), 0);
  UpdateState("");
}

void Session::SendStep(const DaemonStep& step) {
  absl::StatusOr<Message> message = BuildForDaemon(record_, step);
  if (!message.ok())
    return DropDaemon(absl::StrCat(RequestText(step.request), ": ", std::string(message.status().message())), true);
  const vhost_user::RequestRule* rule = vhost_user::FindRule(step.request);
  if (message->need_reply() || (rule && rule->always_answered)) expected_.push_back(step);
  Put(SendToDaemon{*std::move(message)});
}

absl::Status Session::TakeReply(const DaemonStep& step, Message& message) {
  if (step.request == Request::kPostcopyAdvise) return TakeUserfaultfd(message);
  const auto bad_size = [&] {
    return absl::InvalidArgumentError(
        absl::StrCat("the daemon's reply to ", RequestText(step.request), " has ", message.payload.size(), " bytes"));
  };
  if (!message.fds.empty()) return absl::InvalidArgumentError("the daemon sent descriptors");
  if (step.request == Request::kSetLogBase) return absl::OkStatus();  // librte_vhost: empty; libvhost-user: u64
  if (step.request == Request::kGetVringBase) {
    if (message.payload.size() != sizeof(vhost_user::VringState)) return bad_size();
    const auto state = PayloadAs<vhost_user::VringState>(message);
    if (state.index != step.ring) return absl::InvalidArgumentError("the daemon answered for another ring");
    StopRing(step.ring, state.num);
    return absl::OkStatus();
  }
  if (step.request == Request::kSetMemTable && record_.listening()) return TakeMemoryBases(message);
  if (message.payload.size() != sizeof(uint64_t)) return bad_size();
  const auto value = PayloadAs<uint64_t>(message);
  switch (step.request) {
    case Request::kGetFeatures:
      daemon_features_ = value;
      if (const uint64_t lacking = record_.features & ~value; lacking != 0)
        return absl::FailedPreconditionError(absl::StrCat("the daemon lacks what the guest has negotiated: ",
                                                          absl::StrJoin(FeatureNames(lacking), ", ")));
      return absl::OkStatus();
    case Request::kGetProtocolFeatures:
      daemon_protocol_ = value;
      return absl::OkStatus();
    case Request::kGetQueueNum:
      if (value < spec_.queue_pairs)
        return absl::FailedPreconditionError(
            absl::StrCat("the daemon has ", value, " queue pairs of ", spec_.queue_pairs));
      return absl::OkStatus();
    default:
      if (value != 0)
        return absl::FailedPreconditionError(absl::StrCat("the daemon refused ", RequestText(step.request)));
      // To start a ring is to look at it.
      if (step.request == Request::kSetVringKick && record_.listening()) fetched_rings_ |= 1u << step.ring;
      return absl::OkStatus();
  }
}

Session::Outcome Session::Forward(const Message& message, unsigned ring) {
  if (link_ != Link::kSynced) return Outcome::kRecorded;
  pending_ = Pending{message.request, message.need_reply(), ring};
  Arm();
  SendStep({message.request, ring});
  return Outcome::kAnswered;
}

void Session::DropDaemon(const std::string& reason, bool hold_back) {
  Put(CloseDaemon{reason, hold_back});
  LoseDaemon();
  if (pending_) Settle(*std::exchange(pending_, std::nullopt), 0);
  if (connected_) UpdateState(reason);
}

void Session::LoseDaemon() {
  MarkUnfinished();
  link_ = Link::kNone;
  expected_.clear();
  plan_sent_ = false;
  daemon_advised_ = false;
  if (std::exchange(deadline_armed_, false)) Put(DisarmDeadline{});
}

void Session::Arm() {
  deadline_armed_ = true;
  Put(ArmDeadline{record_.listening() ? kPostcopyDeadlineMs : kReplyDeadlineMs});
}

void Session::RecoverStartedBases() {
  for (unsigned ring = 0; ring < vrings(); ++ring)
    if (record_.vrings[ring].started()) record_.vrings[ring].base = BaseFromMemory(ring);
}

}  // namespace everport
