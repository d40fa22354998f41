#pragma once

// One guest NIC's session: a pure state machine between a front-end (QEMU) and whichever daemon is there.
// No sockets, no clock; what it wants done comes out as actions. One thread. Guest memory is reached through
// GuestFiles.
//
// Rules
//  - One thing at a time: while a daemon owes a reply, frontend_paused() holds and the front-end is not read.
//  - Queries are answered from the contract and the record, with or without a daemon.
//  - What sets state is checked, recorded, passed on to a synced daemon, and acknowledged to the front-end when the
//    daemon has acknowledged it, or is gone, or is late (kReplyDeadlineMs).
//  - What librte_vhost cannot do live is recorded, the daemon's link is closed (librte_vhost reconnects at once), and
//  the
//    front-end is answered when the replay is through: a resync.
//  - While post-copy is under way (record().listening()) memory has pages that only the daemon that has registered it
//    can fetch, and none other can register: a daemon that is lost then is not replaced before the end
//    (session_postcopy.cc).
//  - A front-end that breaks a rule loses its session, with a reason. Nobody else notices.

#include <array>
#include <cstdint>
#include <deque>
#include <optional>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "backend/keeper/control_protocol.h"
#include "backend/keeper/guest_files.h"
#include "backend/keeper/index_page.h"
#include "backend/keeper/replay_plan.h"
#include "backend/keeper/session_record.h"
#include "backend/vhost_user/message.h"
#include "migration/dirty_log.h"
#include "migration/feature_contract.h"

namespace everport {

// What the session wants done, in this order.
struct SendToFrontend {
  vhost_user::Message message;
};
struct SendToDaemon {
  vhost_user::Message message;
};
// The session has already forgotten the connection: close it, and report nothing back.
struct CloseFrontend {
  std::string reason;
};
// hold_back: the daemon would come back at once only to be refused again; let it wait, longer each time.
struct CloseDaemon {
  std::string reason;
  bool hold_back = false;
};
// A daemon may have died between giving a buffer back and telling the guest: write each ring's call descriptor.
struct SignalCalls {
  std::vector<unsigned> rings;
};
struct Announce {
  std::array<uint8_t, 6> mac;
};
struct StateChanged {
  SessionState state;
  std::string reason;
  Postcopy postcopy = Postcopy::kNone;
};
struct Synced {};  // the daemon holds the session
struct Note {
  std::string text;
};  // for the log
struct ArmDeadline {
  int ms;
};  // replaces one that is armed; call Deadline() then
struct DisarmDeadline {};
using Action = std::variant<SendToFrontend, SendToDaemon, CloseFrontend, CloseDaemon, SignalCalls, Announce,
                            StateChanged, Synced, Note, ArmDeadline, DisarmDeadline>;
using Actions = std::vector<Action>;

class Session {
 public:
  static constexpr int kReplyDeadlineMs = 2000;
  // While post-copy is under way: a daemon may wait for a page from the guest's former host, and without it the guest
  // has no network until the end.
  static constexpr int kPostcopyDeadlineMs = 30000;

  // page and files must outlive it. page: this port's, mapped or not; every head of it is this session's.
  Session(PortSpec spec, FeatureContract contract, IndexPage* page, GuestFiles* files);

  Actions FrontendConnected();
  Actions FrontendMessage(vhost_user::Message message);  // not while frontend_paused()
  Actions FrontendGone(const std::string& reason);
  Actions DaemonConnected();  // only while daemon_welcome()
  Actions DaemonMessage(vhost_user::Message message);
  Actions DaemonGone(const std::string& reason);
  Actions Deadline();

  bool frontend_connected() const { return connected_; }
  bool frontend_paused() const { return pending_.has_value() || link_ == Link::kReplaying; }
  bool daemon_welcome() const { return link_ == Link::kNone && !record_.listening(); }
  bool daemon_attached() const { return link_ != Link::kNone; }
  bool daemon_synced() const { return link_ == Link::kSynced; }
  SessionState state() const { return state_; }
  const std::string& reason() const { return reason_; }
  // kAdvised until memory is told: a guest that comes with all of it may not be waited for any more.
  Postcopy postcopy() const;
  const SessionRecord& record() const { return record_; }
  const PortSpec& spec() const { return spec_; }

 private:
  enum class Link {
    kNone,       // no daemon is connected
    kIdle,       // one is, there is no session to give it
    kReplaying,  // it is being given the session
    kSynced,     // it holds the session as recorded
  };
  // What became of a message from the front-end.
  enum class Outcome {
    kAnswered,  // a reply has been put out, or none is due, or it is pending
    kRecorded,  // to be acknowledged
    kRefused,   // to be acknowledged with failure
    kResync,    // recorded; to be acknowledged when a daemon has been given the whole session anew
  };
  struct Pending {  // what the front-end waits for
    vhost_user::Request request;
    bool need_reply;
    unsigned ring;
  };
  using Handled = absl::StatusOr<Outcome>;
  using Handler = Handled (Session::*)(vhost_user::Message&);
  struct Route {
    vhost_user::Request request;
    Handler handler;
  };
  static const Route kRoutes[];

  // session_frontend.cc
  Handled Handle(vhost_user::Message& message);
  Handled HandleUnknown(const vhost_user::Message& message);
  Handled OnGetFeatures(vhost_user::Message& message);
  Handled OnSetFeatures(vhost_user::Message& message);
  Handled OnSetOwner(vhost_user::Message& message);
  Handled OnResetOwner(vhost_user::Message& message);
  Handled OnGetProtocolFeatures(vhost_user::Message& message);
  Handled OnSetProtocolFeatures(vhost_user::Message& message);
  Handled OnGetQueueNum(vhost_user::Message& message);
  Handled OnSetMemTable(vhost_user::Message& message);
  Handled OnSetLogBase(vhost_user::Message& message);
  Handled OnSetVringNum(vhost_user::Message& message);
  Handled OnSetVringBase(vhost_user::Message& message);
  Handled OnSetVringAddr(vhost_user::Message& message);
  Handled OnGetVringBase(vhost_user::Message& message);
  Handled OnSetVringFd(vhost_user::Message& message);
  Handled OnSetVringEnable(vhost_user::Message& message);
  Handled OnSendRarp(vhost_user::Message& message);
  Handled OnNetSetMtu(vhost_user::Message& message);
  Handled OnSetBackendReqFd(vhost_user::Message& message);
  Handled OnGetConfig(vhost_user::Message& message);
  Handled OnSetConfig(vhost_user::Message& message);
  Handled OnResetDevice(vhost_user::Message& message);
  Handled OnSetStatus(vhost_user::Message& message);
  Handled OnGetStatus(vhost_user::Message& message);
  absl::StatusOr<unsigned> RingIndex(const vhost_user::Message& message) const;
  Handled Reply(vhost_user::Request request, uint64_t value);
  std::array<uint8_t, vhost_user::kConfigSpace> ConfigSpace() const;

  // session_postcopy.cc
  Handled OnPostcopyAdvise(vhost_user::Message& message);
  Handled OnPostcopyListen(vhost_user::Message& message);
  Handled OnPostcopyEnd(vhost_user::Message& message);
  Handled OnMemoryWhileListening(bool unchanged, bool started);
  Handled OnMemoryAck(const vhost_user::Message& message);
  absl::Status TakeUserfaultfd(vhost_user::Message& message);
  absl::Status TakeMemoryBases(const vhost_user::Message& message);
  void AnswerAdvise();
  void AnswerMemory();
  void ForgetPostcopy();
  std::string WhyHeldBack() const;

  // session_daemon.cc
  void BeginReplay();
  void ContinueReplay();
  void FinishReplay();
  void SendStep(const DaemonStep& step);
  absl::Status TakeReply(const DaemonStep& step, vhost_user::Message& message);
  // Passes on what has been recorded: kAnswered, the acknowledgement is up to the daemon; kRecorded, there is none.
  Outcome Forward(const vhost_user::Message& message, unsigned ring);
  void DropDaemon(const std::string& reason, bool hold_back);
  void LoseDaemon();  // the link is gone, by whichever side
  void Arm();
  void RecoverStartedBases();

  // session.cc
  void Settle(const Pending& pending, uint64_t result);
  void Acknowledge(vhost_user::Request request, bool need_reply, uint64_t result);
  void StopRing(unsigned ring, uint32_t base);
  void EndSession(const std::string& reason);
  void ClearHead(unsigned ring);
  void UpdateState(const std::string& reason);
  // Where the ring stands, told by guest memory and the index page alone; repairs a packed ring on the way.
  uint32_t BaseFromMemory(unsigned ring);
  absl::StatusOr<uint16_t> SplitBase(const VringRecord& vring);
  absl::StatusOr<uint16_t> PackedBase(unsigned ring);
  void MarkDirty(const GuestRange& range);
  void MarkUnfinished();
  void Put(Action action) { out_.push_back(std::move(action)); }
  Actions Take() { return std::exchange(out_, {}); }
  unsigned vrings() const { return 2u * spec_.queue_pairs; }

  const PortSpec spec_;
  const FeatureContract contract_;
  IndexPage* const page_;
  GuestFiles* const files_;

  SessionRecord record_;
  bool connected_ = false;
  SessionState state_ = SessionState::kWaiting;
  std::string reason_;
  Link link_ = Link::kNone;
  uint64_t daemon_features_ = 0;
  uint64_t daemon_protocol_ = 0;
  std::deque<DaemonStep> expected_;  // replies that the daemon owes, in order
  bool plan_sent_ = false;           // of a replay: all its messages are out
  std::optional<Pending> pending_;
  bool deadline_armed_ = false;
  // Of post-copy.
  bool daemon_advised_ = false;  // the present daemon made the userfaultfd that the front-end has
  UniqueFd userfaultfd_;         // on its way from daemon to front-end
  bool memory_ack_due_ = false;  // the front-end has been told where the regions are, and has to say that it knows
  uint32_t fetched_rings_ = 0;   // a bit a ring: a daemon has looked at it while listening, so its pages are here
  Postcopy told_postcopy_ = Postcopy::kNone;  // by the last StateChanged
  bool unknown_noted_ = false;                // one log line a session for requests that are ignored
  Actions out_;
};

}  // namespace everport
