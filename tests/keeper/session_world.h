#pragma once

// A Session with both its peers played by hand: messages in, actions out, nothing in between.

#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstring>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "backend/keeper/session.h"
#include "backend/vhost_user/codec.h"

namespace everport {

inline constexpr uint64_t Bit(unsigned bit) {
  return uint64_t{1} << bit;
}

inline constexpr uint64_t kTestFeatures = Bit(kVersion1) | Bit(kNetMrgRxbuf) | Bit(kVhostLogAll) | Bit(kNetMq) |
                                          Bit(kRingPacked) | Bit(kInOrder) | Bit(kVhostUserProtocolFeatures);
inline constexpr uint64_t kTestProtocol =
    Bit(vhost_user::kProtocolMq) | Bit(vhost_user::kProtocolLogShmfd) | Bit(vhost_user::kProtocolRarp) |
    Bit(vhost_user::kProtocolReplyAck) | Bit(vhost_user::kProtocolMtu) | Bit(vhost_user::kProtocolBackendReq) |
    Bit(vhost_user::kProtocolConfig) | Bit(vhost_user::kProtocolResetDevice) | Bit(vhost_user::kProtocolStatus);

inline constexpr uint64_t kPagefault = Bit(vhost_user::kProtocolPagefault);

inline FeatureContract TestContract() {
  return {.name = "test-1",
          .features = kTestFeatures,
          .protocol_features = kTestProtocol,
          .max_mtu = 9216,
          .max_queue_pairs = 16,
          .max_ring_size = 1024};
}

class SessionWorld {
 public:
  using Message = vhost_user::Message;
  using Request = vhost_user::Request;

  static constexpr uint64_t kGpa = 0x100000, kUva = 0x7f0000000000, kMemory = 1 << 20;
  static constexpr uint32_t kRing = 64;

  explicit SessionWorld(uint16_t queue_pairs = 1, bool postcopy = false)
      : page(std::make_unique<IndexPage>()),
        memory(::memfd_create("guest", MFD_CLOEXEC)),
        session({"p1", "/run/p1.sock", queue_pairs, 1500, "test-1"}, WithPostcopy(TestContract(), postcopy), page.get(),
                &files),
        protocol(kTestProtocol | (postcopy ? kPagefault : 0)),
        daemon_protocol(protocol) {
    [[maybe_unused]] const int r = ::ftruncate(memory.get(), kMemory);
  }

  // The front-end says something. What the session wants is appended to `done`, and a willing daemon answers.
  void Say(Message message) { Run(session.FrontendMessage(std::move(message))); }
  template <typename T>
  void Say(Request request, const T& payload, int fd = -1, bool need_reply = true) {
    Message message = vhost_user::MakeMessage(request, need_reply ? vhost_user::kFlagNeedReply : 0, payload);
    if (fd >= 0) message.fds.emplace_back(::dup(fd));
    Say(std::move(message));
  }
  void Say(Request request, bool need_reply = false) {
    Say(vhost_user::MakeMessage(request, need_reply ? vhost_user::kFlagNeedReply : 0));
  }

  void Connect() { Run(session.FrontendConnected()); }
  void Attach() {
    answered = to_daemon.size();  // a new connection
    daemon_listening = false;
    Run(session.DaemonConnected());
  }
  void Run(Actions actions) {
    for (Action& action : actions) {
      if (auto* send = std::get_if<SendToDaemon>(&action))
        to_daemon.push_back(std::move(send->message));
      else if (auto* reply = std::get_if<SendToFrontend>(&action))
        replies.push_back(std::move(reply->message));
      else if (auto* close = std::get_if<CloseFrontend>(&action))
        closed_frontend = close->reason;
      else if (auto* drop = std::get_if<CloseDaemon>(&action)) {
        closed_daemon = drop->reason;
        held_back = drop->hold_back;
      } else if (std::holds_alternative<ArmDeadline>(action))
        armed = true;
      else if (std::holds_alternative<DisarmDeadline>(action))
        armed = false;
      else if (std::holds_alternative<Synced>(action))
        ++synced;
      else if (auto* call = std::get_if<SignalCalls>(&action))
        called = call->rings;
      else if (auto* announce = std::get_if<Announce>(&action))
        announced.push_back(announce->mac);
      else if (auto* state = std::get_if<StateChanged>(&action))
        states.push_back(*state);
      else if (auto* note = std::get_if<Note>(&action))
        notes.push_back(note->text);
    }
    if (daemon_willing) AnswerAll();
  }

  // What a daemon says to the oldest message it has not answered yet. False: nothing is due.
  bool AnswerOne() {
    if (answered == to_daemon.size() || !session.daemon_attached()) return false;
    const Message& message = to_daemon[answered++];
    Message reply;
    switch (message.request) {
      case Request::kGetFeatures:
        reply = vhost_user::MakeReply(message.request, daemon_features);
        break;
      case Request::kGetProtocolFeatures:
        reply = vhost_user::MakeReply(message.request, daemon_protocol);
        break;
      case Request::kGetQueueNum:
        reply = vhost_user::MakeReply(message.request, daemon_queue_pairs);
        break;
      case Request::kSetLogBase:
        reply = vhost_user::MakeMessage(message.request, vhost_user::kFlagReply);
        break;
      case Request::kGetVringBase:
        reply = vhost_user::MakeMessage(
            message.request, vhost_user::kFlagReply,
            vhost_user::VringState{vhost_user::PayloadAs<vhost_user::VringState>(message).index, daemon_base});
        break;
      case Request::kPostcopyAdvise:
        reply = userfaultfd.valid() ? vhost_user::MakeMessage(message.request, vhost_user::kFlagReply)
                                    : vhost_user::MakeReply(message.request, 1);
        if (userfaultfd.valid()) reply.fds.push_back(userfaultfd.Dup());
        break;
      case Request::kPostcopyListen:
      case Request::kPostcopyEnd:
        daemon_listening = message.request == Request::kPostcopyListen && message.request != daemon_refuses;
        reply = vhost_user::MakeReply(message.request, message.request == daemon_refuses ? 1 : 0);
        break;
      case Request::kSetMemTable:
        if (message.fds.empty()) {  // the word it waits for
          ++daemon_acks;
          return true;
        }
        reply = vhost_user::MakeReply(message.request, message.request == daemon_refuses ? 1 : 0);
        if (daemon_listening && message.request != daemon_refuses)
          reply = vhost_user::EncodeMemTable({{kGpa, kMemory, kDaemonBase, 0}}, vhost_user::kFlagReply);
        break;
      default:
        if (!message.need_reply()) return true;
        reply = vhost_user::MakeReply(message.request, message.request == daemon_refuses ? 1 : 0);
    }
    Run(session.DaemonMessage(std::move(reply)));
    return true;
  }
  void AnswerAll() {
    while (AnswerOne()) {
    }
  }

  // QEMU's way to a running guest.
  void Negotiate(uint64_t features) {
    Say(Request::kSetProtocolFeatures, protocol, -1, false);
    Say(Request::kSetOwner);
    Say(Request::kSetFeatures, features);
  }
  void ShareMemory() {
    Message message = vhost_user::EncodeMemTable({{kGpa, kMemory, kUva, 0}}, vhost_user::kFlagNeedReply);
    message.fds.push_back(memory.Dup());
    Say(std::move(message));
  }
  vhost_user::VringAddr Addr(uint32_t ring) const {
    const uint64_t base = kUva + ring * 0x10000ull;
    return {ring, 0, base, base + 0x8000, base + 0x4000, 0};
  }
  void StartRing(uint32_t ring, uint32_t base = 0) {
    Say(Request::kSetVringNum, vhost_user::VringState{ring, kRing});
    Say(Request::kSetVringBase, vhost_user::VringState{ring, base});
    Say(Request::kSetVringAddr, Addr(ring));
    Say(Request::kSetVringKick, uint64_t{ring}, event.get());
    Say(Request::kSetVringCall, uint64_t{ring}, event.get());
    Say(Request::kSetVringEnable, vhost_user::VringState{ring, 1});
  }
  void StartGuest(uint64_t features = Bit(kVersion1) | Bit(kVhostUserProtocolFeatures), uint32_t base = 0) {
    Connect();
    Negotiate(features);
    ShareMemory();
    for (uint32_t ring = 0; ring < 2u * session.spec().queue_pairs; ++ring) StartRing(ring, base);
  }
  template <typename T>
  void Poke(uint64_t user_addr, T value) {
    [[maybe_unused]] const ssize_t n =
        ::pwrite(memory.get(), &value, sizeof value, static_cast<off_t>(user_addr - kUva));
  }
  template <typename T>
  T Peek(uint64_t user_addr) {
    T value{};
    [[maybe_unused]] const ssize_t n =
        ::pread(memory.get(), &value, sizeof value, static_cast<off_t>(user_addr - kUva));
    return value;
  }
  void SetUsedIdx(uint32_t ring, uint16_t idx) { Poke(Addr(ring).used_user_addr + 2, idx); }

  uint64_t LastReply() const {
    return replies.empty() || replies.back().payload.size() < 8 ? ~uint64_t{0}
                                                                : vhost_user::PayloadAs<uint64_t>(replies.back());
  }
  uint32_t LastBase() const { return vhost_user::PayloadAs<vhost_user::VringState>(replies.back()).num; }
  // The messages sent to the daemon, from one on, as "SET_FEATURES SET_VRING_NUM:0 …".
  std::string Sent(size_t from = 0) const {
    std::string text;
    for (size_t i = from; i < to_daemon.size(); ++i) {
      const Message& m = to_daemon[i];
      if (!text.empty()) text += ' ';
      text += vhost_user::RequestText(m.request);
      switch (m.request) {
        case Request::kSetVringNum:
        case Request::kSetVringBase:
        case Request::kSetVringAddr:
        case Request::kSetVringEnable:
        case Request::kGetVringBase:
        case Request::kSetVringCall:
        case Request::kSetVringKick:
        case Request::kSetVringErr:
          text += ":" + std::to_string(m.payload[0]);
          break;
        default:
          break;
      }
    }
    return text;
  }
  const Message* Find(Request request, unsigned ring, size_t from = 0) const {
    for (size_t i = from; i < to_daemon.size(); ++i)
      if (to_daemon[i].request == request && to_daemon[i].payload[0] == ring) return &to_daemon[i];
    return nullptr;
  }

  std::unique_ptr<IndexPage> page;
  RealGuestFiles files;
  UniqueFd memory;
  UniqueFd event{::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)};
  Session session;

  bool daemon_willing = true;
  uint64_t daemon_features = kTestFeatures;
  const uint64_t protocol;  // what the session offers and the front-end takes
  uint64_t daemon_protocol;
  uint64_t daemon_queue_pairs = 128;
  uint32_t daemon_base = 0;
  Request daemon_refuses{};
  UniqueFd userfaultfd;           // what the daemon makes; none: it cannot
  bool daemon_listening = false;  // as librte_vhost holds it, for one connection
  static constexpr uint64_t kDaemonBase = 0x100000000;
  int daemon_acks = 0;  // of memory tables

  std::vector<Message> to_daemon, replies;
  size_t answered = 0;
  std::string closed_frontend, closed_daemon;
  bool held_back = false, armed = false;
  int synced = 0;
  std::vector<unsigned> called;
  std::vector<std::array<uint8_t, 6>> announced;
  std::vector<StateChanged> states;
  std::vector<std::string> notes;
};

}  // namespace everport
