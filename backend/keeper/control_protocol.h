#pragma once

// What the daemon and the keeper say to each other on <run_dir>/keeper.sock, besides each port's vhost-user socket.
// SOCK_SEQPACKET, one JSON object (Boost.JSON) a packet, at most kMaxControlMessage bytes; descriptors by SCM_RIGHTS.
//
//   daemon: {"op":"hello","version":1,"daemon":"a"}        keeper: {"ok":true,"version":1}
//   daemon: {"op":"list"}                                   keeper: {"ok":true,"ports":[{PortSession}…]}   this
//   daemon's only daemon: {"op":"add","port":{PortSpec}}                  keeper:
//   {"ok":true,"socket":"…/keeper/NAME.sock"} + index page memfd daemon: {"op":"remove","name":"…"} keeper: {"ok":true}
//   a refused one                                           keeper: {"ok":false,"error":"…"}
//   keeper, by itself, to the daemon that owns the port:
//   {"event":"session","name":"…","state":"waiting|connected|running","reason":"…"}, with
//   "postcopy":"advised|listening" while there is any
//                                                           {"event":"announce","name":"…","mac":"52:54:…"}   SEND_RARP
//                                                           from the front-end
// Replies come in the order of requests; events stand between them. `add` of a port that is there already with the same
// spec succeeds and gives the same page, so a restarted daemon just adds what it wants, lists, and removes the rest.
// When `add` is answered, the port's socket listens.

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "absl/status/statusor.h"
#include "backend/config/config.h"
#include "migration/feature_contract.h"

namespace everport {

inline constexpr int kControlVersion = 1;
inline constexpr size_t kMaxControlMessage = 64 * 1024;

// What the keeper must know of a port. owner: [daemon].name of the daemon (or of the file) that declared it.
struct PortSpec {
  std::string name;
  std::string socket;  // QEMU's server socket
  uint16_t queue_pairs = 1;
  uint16_t mtu = 1500;
  std::string contract;  // by name
  // What that name stands for, of an own profile of the daemon's configuration; not in the keeper's list of sessions.
  // The keeper knows the built-in contracts by itself, and their names mean nothing else.
  std::optional<FeatureContract> profile = std::nullopt;
  bool postcopy = false;  // the front-end is offered PAGEFAULT beside the contract
  bool operator==(const PortSpec&) const = default;
};

enum class SessionState {
  kWaiting,    // no front-end is connected
  kConnected,  // a front-end is connected; its rings are not all set up
  kRunning,    // at least one queue pair has been started by the guest
};
// How far the guest's arrival by post-copy is (vhost-user.rst, "Postcopy").
enum class Postcopy {
  kNone,       // none is under way
  kAdvised,    // one may come: the front-end has asked for a userfaultfd
  kListening,  // the guest runs, or is about to, and pages of its memory are still at its former host
};
// Of a contract that `contracts` has.
PortSpec SpecOf(const PortConfig& port, const ContractSet& contracts);
std::string_view SessionStateName(SessionState state);
std::string_view PostcopyName(Postcopy postcopy);  // "none", "advised", "listening"

struct PortSession {
  PortSpec spec;
  SessionState state = SessionState::kWaiting;
  bool daemon_attached = false;
  std::string reason;  // why it is in this state: the last disconnect or refusal; empty if nothing is wrong
  Postcopy postcopy = Postcopy::kNone;
};

// Requests.
struct HelloRequest {
  int version = kControlVersion;
  std::string daemon;
};
struct ListRequest {};
struct AddRequest {
  PortSpec port;
};
struct RemoveRequest {
  std::string name;
};
using ControlRequest = std::variant<HelloRequest, ListRequest, AddRequest, RemoveRequest>;

// Replies and events, as the daemon receives them.
struct ControlReply {
  bool ok = false;
  std::string error;
  std::string socket;              // of add
  std::vector<PortSession> ports;  // of list
};
struct SessionEvent {
  std::string name;
  SessionState state;
  std::string reason;
  Postcopy postcopy = Postcopy::kNone;
};
struct AnnounceEvent {
  std::string name;
  std::string mac;
};
using ControlMessage = std::variant<ControlReply, SessionEvent, AnnounceEvent>;

std::string EncodeRequest(const ControlRequest& request);
absl::StatusOr<ControlRequest> DecodeRequest(std::string_view json);  // checks types, ranges and unknown ops
std::string EncodeMessage(const ControlMessage& message);
absl::StatusOr<ControlMessage> DecodeMessage(std::string_view json);

}  // namespace everport
