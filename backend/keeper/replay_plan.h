#pragma once

// Which messages make a daemon's librte_vhost hold a recorded session, and each of them built from the record.
// Pure; any thread. The order was found to be accepted by librte_vhost 22.11 to 24.11 (docs of the session rules:
// session.h).

#include <cstdint>
#include <vector>

#include "backend/keeper/session_record.h"
#include "backend/vhost_user/message.h"

namespace everport {

// Protocol features that the keeper uses towards a daemon, where it offers them. REPLY_ACK it must offer.
inline constexpr uint64_t kDaemonProtocolFeatures =
    1u << vhost_user::kProtocolMq | 1u << vhost_user::kProtocolLogShmfd | 1u << vhost_user::kProtocolReplyAck |
    1u << vhost_user::kProtocolMtu | 1u << vhost_user::kProtocolPagefault | 1u << vhost_user::kProtocolStatus;

struct DaemonStep {
  vhost_user::Request request;
  unsigned ring = 0;   // of ring messages
  uint64_t value = 0;  // of SET_PROTOCOL_FEATURES
};

// What follows GET_FEATURES and GET_PROTOCOL_FEATURES. daemon_protocol: what the daemon offers.
std::vector<DaemonStep> PlanReplay(const SessionRecord& record, uint64_t daemon_protocol, unsigned vrings);

// The message of a step, with duplicates of the record's descriptors and need_reply set on what sets something.
// ResourceExhausted when the process is out of descriptors.
absl::StatusOr<vhost_user::Message> BuildForDaemon(const SessionRecord& record, const DaemonStep& step);

}  // namespace everport
