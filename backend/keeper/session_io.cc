#include "backend/keeper/session_io.h"

#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <utility>

#include "backend/base/log.h"
#include "backend/keeper/unix_socket.h"

namespace everport {
namespace {

using std::chrono::milliseconds;

constexpr milliseconds kSlowRetry{1000};
constexpr milliseconds kHalfMessage{2000};  // a message that has begun is whole by then
constexpr milliseconds kFirstHoldBack{10};
constexpr milliseconds kLongestHoldBack{1000};
constexpr milliseconds kSettled{1000};  // a peer that stays that long begins anew with the shortest delay
// A front-end may make the daemon come anew that often; beyond it is read again only after a pause.
constexpr std::chrono::seconds kResyncWindow{1};
constexpr unsigned kResyncsAWindow = 20;
constexpr milliseconds kResyncPause{10};

}  // namespace

absl::StatusOr<std::unique_ptr<SessionIo>> SessionIo::Create(boost::asio::io_context& io, SocketWatch& watch,
                                                             EventSignal& signal, const PortSpec& spec,
                                                             const FeatureContract& contract,
                                                             const std::string& daemon_socket, Observer& observer) {
  absl::StatusOr<IndexPageFile> page = IndexPageFile::Create();
  if (!page.ok()) return page.status();
  absl::StatusOr<UniqueFd> listener = ListenUnix(daemon_socket, SOCK_STREAM);
  if (!listener.ok()) return listener.status();
  return std::unique_ptr<SessionIo>(new SessionIo(io, watch, signal, spec, contract, daemon_socket,
                                                  *std::move(listener), *std::move(page), observer));
}

SessionIo::SessionIo(boost::asio::io_context& io, SocketWatch& watch, EventSignal& signal, const PortSpec& spec,
                     const FeatureContract& contract, std::string daemon_socket, UniqueFd listener, IndexPageFile page,
                     Observer& observer)
    : io_(io),
      watch_(watch),
      signal_(signal),
      observer_(observer),
      daemon_socket_(std::move(daemon_socket)),
      page_(std::move(page)),
      session_(spec, contract, page_.page(), &files_),
      listener_(std::move(listener)),
      accept_(io, spec.name, listener_.get(), [this](UniqueFd fd) { AcceptDaemon(std::move(fd)); }),
      connect_retry_(io),
      half_message_(io),
      reply_deadline_(io),
      hold_back_(io),
      frontend_settled_(io),
      daemon_settled_(io),
      resync_pause_(io),
      notes_(spec.name, "more lines like these were left out") {
  accept_.Want(true);
  watch_.Watch(spec.socket, [this] {
    // bind() makes the name, listen() comes after it: the retries that follow are quick.
    connect_delay_ = milliseconds(1);
    if (!frontend_) TryConnect();
  });
  TryConnect();
}

SessionIo::~SessionIo() {
  watch_.Forget(spec().socket);
  ::unlink(daemon_socket_.c_str());
}

void SessionIo::TryConnect() {
  connect_retry_.Cancel();
  absl::StatusOr<UniqueFd> fd = ConnectUnix(spec().socket, SOCK_STREAM);
  if (!fd.ok()) {
    const std::string trouble(fd.status().message());
    if (trouble != std::exchange(connect_trouble_, trouble)) spdlog::debug("{}: waits: {}", spec().name, trouble);
    return RetryConnect();
  }
  connect_trouble_.clear();
  frontend_ = std::make_unique<Peer>(
      io_, *std::move(fd), [this] { ReadFrontend(); }, [this] { UpdateInterest(); });
  frontend_settled_.Arm(kSettled, [this] {
    connect_delay_ = milliseconds(1);
    refusal_delay_ = milliseconds(0);
  });
  Apply(session_.FrontendConnected());
}

void SessionIo::RetryConnect() {
  connect_retry_.Arm(connect_delay_, [this] {
    watch_.Renew(spec().socket);
    TryConnect();
  });
  connect_delay_ = std::min(2 * connect_delay_, kSlowRetry);
}

bool SessionIo::MayReadFrontend() const {
  return frontend_ && !session_.frontend_paused() && !resync_pause_.armed();
}

void SessionIo::ReadFrontend() {
  // One burst of messages at most, so that a chatty front-end leaves time to the others.
  for (int budget = 64; budget > 0 && MayReadFrontend() && !frontend_->channel.wants_write(); --budget) {
    absl::StatusOr<std::optional<vhost_user::Message>> message = frontend_->channel.Receive();
    if (!message.ok()) return LoseFrontend(std::string(message.status().message()));
    if (!message->has_value()) break;
    half_message_.Cancel();
    Apply(session_.FrontendMessage(**std::move(message)));
  }
  UpdateInterest();
}

void SessionIo::ReadDaemon() {
  while (daemon_) {
    absl::StatusOr<std::optional<vhost_user::Message>> message = daemon_->channel.Receive();
    if (!message.ok()) return LoseDaemon(std::string(message.status().message()));
    if (!message->has_value()) break;
    Apply(session_.DaemonMessage(**std::move(message)));
  }
  UpdateInterest();
}

void SessionIo::AcceptDaemon(UniqueFd fd) {
  daemon_since_ = Clock::now();
  daemon_ = std::make_unique<Peer>(
      io_, std::move(fd), [this] { ReadDaemon(); }, [this] { UpdateInterest(); });
  Apply(session_.DaemonConnected());
}

void SessionIo::LoseFrontend(const std::string& reason) {
  DropFrontend();
  Apply(session_.FrontendGone(reason));
  if (!frontend_) RetryConnect();
}

void SessionIo::DropFrontend() {
  frontend_.reset();
  half_message_.Cancel();
  frontend_settled_.Cancel();
}

void SessionIo::DropDaemon() {
  daemon_.reset();
  daemon_settled_.Cancel();
}

void SessionIo::LoseDaemon(const std::string& reason) {
  DropDaemon();
  Apply(session_.DaemonGone(reason));
}

void SessionIo::Apply(Actions actions) {
  for (Action& action : actions) std::visit([this](auto& a) { Do(a); }, action);
  UpdateInterest();
}

// What the sockets are watched for follows from the state alone. Flushes what waits, too.
void SessionIo::UpdateInterest() {
  if (frontend_) {
    if (absl::Status s = frontend_->channel.Flush(); !s.ok()) return LoseFrontend(std::string(s.message()));
    const bool blocked = frontend_->channel.wants_write();
    frontend_->watcher.WantWrite(blocked);
    // A front-end that does not read its replies is not read either.
    frontend_->watcher.WantRead(!blocked && MayReadFrontend());
    // Time counts only while we read.
    if (!frontend_->channel.mid_message() || !MayReadFrontend()) {
      half_message_.Cancel();
    } else if (!half_message_.armed()) {
      half_message_.Arm(kHalfMessage, [this] { LoseFrontend("a message begun 2 s ago is not complete"); });
    }
  }
  if (daemon_) {
    if (absl::Status s = daemon_->channel.Flush(); !s.ok()) return LoseDaemon(std::string(s.message()));
    daemon_->watcher.WantWrite(daemon_->channel.wants_write());
    daemon_->watcher.WantRead(true);
  }
  accept_.Want(session_.daemon_welcome() && !hold_back_.armed());
}

void SessionIo::Do(SendToFrontend& action) {
  if (!frontend_) return;
  // An error shows again at the next Flush, where it is dealt with.
  [[maybe_unused]] const absl::Status sent = frontend_->channel.Send(std::move(action.message));
}

void SessionIo::Do(SendToDaemon& action) {
  if (!daemon_) return;
  [[maybe_unused]] const absl::Status sent = daemon_->channel.Send(std::move(action.message));
}

void SessionIo::Do(CloseFrontend& action) {
  spdlog::warn("{}: front-end dropped: {}", spec().name, action.reason);
  DropFrontend();
  // Connected again at once it would only do the same again.
  refusal_delay_ = std::clamp(2 * refusal_delay_, kFirstHoldBack, kLongestHoldBack);
  connect_delay_ = refusal_delay_;
  RetryConnect();
}

void SessionIo::Do(CloseDaemon& action) {
  DropDaemon();
  if (!action.hold_back) {
    CountResync();
    spdlog::debug("{}: daemon link closed: {}", spec().name, action.reason);
    return;
  }
  hold_back_delay_ = std::clamp(2 * hold_back_delay_, kFirstHoldBack, kLongestHoldBack);
  spdlog::warn("{}: daemon dropped, next one in {} ms: {}", spec().name, hold_back_delay_.count(), action.reason);
  hold_back_.Arm(hold_back_delay_, [this] { UpdateInterest(); });
}

// Each costs a daemon's whole replay, and the front-end causes them.
void SessionIo::CountResync() {
  const Clock::time_point now = Clock::now();
  if (now - resync_window_ >= kResyncWindow) {
    resync_window_ = now;
    resyncs_ = 0;
  }
  if (++resyncs_ > kResyncsAWindow) resync_pause_.Arm(kResyncPause, [this] { UpdateInterest(); });
}

void SessionIo::Do(SignalCalls& action) {
  for (const unsigned ring : action.rings) {
    const UniqueFd& call = session_.record().vrings[ring].call;
    if (call.valid()) signal_.Signal(call.get());
  }
}

void SessionIo::Do(Announce& action) {
  observer_.OnAnnounce(spec().name, action.mac);
}

void SessionIo::Do(StateChanged& action) {
  const bool any = action.postcopy != Postcopy::kNone;
  spdlog::info("{}: {}{}{}{}{}", spec().name, SessionStateName(action.state), any ? ", post-copy " : "",
               any ? PostcopyName(action.postcopy) : "", action.reason.empty() ? "" : ": ", action.reason);
  observer_.OnSessionState(spec().name, action);
}

void SessionIo::Do(Synced&) {
  daemon_settled_.Arm(kSettled, [this] { hold_back_delay_ = milliseconds(0); });
  const std::chrono::duration<double, std::milli> took = Clock::now() - daemon_since_;
  spdlog::info("{}: daemon holds the session, {:.1f} ms after it connected", spec().name, took.count());
}

void SessionIo::Do(Note& action) {
  notes_.Note(action.text, Clock::now());
}

void SessionIo::Do(ArmDeadline& action) {
  reply_deadline_.Arm(milliseconds(action.ms), [this] { Apply(session_.Deadline()); });
}

void SessionIo::Do(DisarmDeadline&) {
  reply_deadline_.Cancel();
}

}  // namespace everport
