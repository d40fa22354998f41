#include "backend/keeper/replay_plan.h"

#include <algorithm>

#include "absl/status/status.h"

namespace everport {
namespace {

using vhost_user::kFlagNeedReply;
using vhost_user::MakeMessage;
using vhost_user::Message;
using vhost_user::Request;

void PlanRing(const SessionRecord& record, unsigned ring, std::vector<DaemonStep>& steps) {
  const VringRecord& vring = record.vrings[ring];
  if (vring.num > 0) {
    steps.push_back({Request::kSetVringNum, ring});
    steps.push_back({Request::kSetVringBase, ring});
  }
  if (vring.addr && !record.memory.empty()) steps.push_back({Request::kSetVringAddr, ring});
  if (vring.err_told) steps.push_back({Request::kSetVringErr, ring});
  if (vring.call_told) steps.push_back({Request::kSetVringCall, ring});
  if (vring.kick_told) steps.push_back({Request::kSetVringKick, ring});
}

bool AddFd(const UniqueFd& fd, Message& message) {
  message.fds.push_back(fd.Dup());
  return message.fds.back().valid();
}

bool AddVringFd(const UniqueFd& fd, unsigned ring, Message& message) {
  const uint64_t value = ring | (fd.valid() ? 0 : vhost_user::kVringNoFd);
  message = MakeMessage(message.request, kFlagNeedReply, value);
  return !fd.valid() || AddFd(fd, message);
}

bool AddMemory(const SessionRecord& record, Message& message) {
  std::vector<vhost_user::MemoryRegion> regions;
  for (const RecordedRegion& recorded : record.memory) regions.push_back(recorded.region);
  message = vhost_user::EncodeMemTable(regions, kFlagNeedReply);
  for (const RecordedRegion& recorded : record.memory)
    if (!AddFd(recorded.fd, message)) return false;
  return true;
}

}  // namespace

std::vector<DaemonStep> PlanReplay(const SessionRecord& record, uint64_t daemon_protocol, unsigned vrings) {
  std::vector<DaemonStep> steps;
  steps.push_back({Request::kSetProtocolFeatures, 0, daemon_protocol & kDaemonProtocolFeatures});
  steps.push_back({Request::kSetOwner});
  if (record.features_told) steps.push_back({Request::kSetFeatures});
  if (daemon_protocol >> vhost_user::kProtocolMq & 1) steps.push_back({Request::kGetQueueNum});
  if (record.mtu && (daemon_protocol >> vhost_user::kProtocolMtu & 1)) steps.push_back({Request::kNetSetMtu});
  if (!record.memory.empty()) steps.push_back({Request::kSetMemTable});
  if (record.log) steps.push_back({Request::kSetLogBase});
  // Without MQ librte_vhost forgets all rings but the first pair at SET_FEATURES.
  if (record.features_told && !record.Has(kNetMq)) vrings = std::min(vrings, 2u);
  for (unsigned ring = 0; ring < vrings; ++ring) PlanRing(record, ring, steps);
  // Without VHOST_USER_F_PROTOCOL_FEATURES a ring is enabled by its kick.
  if (record.Has(kVhostUserProtocolFeatures))
    for (unsigned ring = 0; ring < vrings; ++ring) steps.push_back({Request::kSetVringEnable, ring});
  if (record.status && (daemon_protocol >> vhost_user::kProtocolStatus & 1)) steps.push_back({Request::kSetStatus});
  return steps;
}

absl::StatusOr<Message> BuildForDaemon(const SessionRecord& record, const DaemonStep& step) {
  const VringRecord& vring = record.vrings[step.ring];
  const auto state = [&step](uint32_t num) {
    return MakeMessage(step.request, kFlagNeedReply, vhost_user::VringState{step.ring, num});
  };
  Message message = MakeMessage(step.request, kFlagNeedReply);
  bool fds_ok = true;
  switch (step.request) {
    case Request::kGetFeatures:
    case Request::kGetProtocolFeatures:
    case Request::kGetQueueNum:
      message.flags &= ~kFlagNeedReply;
      break;
    // REPLY_ACK holds only once this one has been taken.
    case Request::kSetProtocolFeatures:
      message = MakeMessage(step.request, 0, step.value);
      break;
    case Request::kSetOwner:
    // Asked for a reply, librte_vhost refuses by one; else it closes the connection.
    case Request::kPostcopyAdvise:
    case Request::kPostcopyListen:
    case Request::kPostcopyEnd:
      break;
    case Request::kSetFeatures:
      message = MakeMessage(step.request, kFlagNeedReply, record.features);
      break;
    case Request::kNetSetMtu:
      message = MakeMessage(step.request, kFlagNeedReply, uint64_t{record.mtu});
      break;
    case Request::kSetStatus:
      message = MakeMessage(step.request, kFlagNeedReply, uint64_t{record.status});
      break;
    case Request::kSetMemTable:
      fds_ok = AddMemory(record, message);
      break;
    case Request::kSetLogBase:
      message = MakeMessage(step.request, 0, *record.log);
      fds_ok = AddFd(record.log_fd, message);
      break;
    case Request::kSetVringNum:
      message = state(vring.num);
      break;
    case Request::kSetVringBase:
      message = state(vring.base);
      break;
    case Request::kGetVringBase:
      message = state(0);
      message.flags &= ~kFlagNeedReply;
      break;
    case Request::kSetVringEnable:
      message = state(vring.enabled ? 1 : 0);
      break;
    case Request::kSetVringAddr:
      message = MakeMessage(step.request, kFlagNeedReply, *vring.addr);
      break;
    case Request::kSetVringKick:
      fds_ok = AddVringFd(vring.kick, step.ring, message);
      break;
    case Request::kSetVringCall:
      fds_ok = AddVringFd(vring.call, step.ring, message);
      break;
    case Request::kSetVringErr:
      fds_ok = AddVringFd(vring.err, step.ring, message);
      break;
    default:
      return absl::InternalError("not a message for a daemon");
  }
  if (!fds_ok) return absl::ResourceExhaustedError("out of file descriptors (raise LimitNOFILE)");
  return message;
}

}  // namespace everport
