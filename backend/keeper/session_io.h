#pragma once

#include <boost/asio/io_context.hpp>
#include <chrono>
#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "backend/base/event_signal.h"
#include "backend/base/refusal_log.h"
#include "backend/keeper/acceptor.h"
#include "backend/keeper/fd_watcher.h"
#include "backend/keeper/index_page_file.h"
#include "backend/keeper/session.h"
#include "backend/keeper/socket_watch.h"
#include "backend/keeper/timer.h"
#include "backend/vhost_user/channel.h"

namespace everport {

// One port at work: its Session, the connection to the front-end's socket, the socket for the daemon, the timers.
// Connects to the front-end when its socket appears, and again and again while it is refused; lets one daemon in at a
// time, the next waits in the listen backlog. The keeper's one thread.
class SessionIo {
 public:
  class Observer {
   public:
    virtual ~Observer() = default;
    virtual void OnSessionState(const std::string& port, const StateChanged& change) = 0;
    virtual void OnAnnounce(const std::string& port, const std::array<uint8_t, 6>& mac) = 0;
  };

  // Listens for the daemon at once (the socket is unlinked when this goes), and begins to look for the front-end.
  static absl::StatusOr<std::unique_ptr<SessionIo>> Create(boost::asio::io_context& io, SocketWatch& watch,
                                                           EventSignal& signal, const PortSpec& spec,
                                                           const FeatureContract& contract,
                                                           const std::string& daemon_socket, Observer& observer);
  ~SessionIo();
  SessionIo(const SessionIo&) = delete;
  SessionIo& operator=(const SessionIo&) = delete;

  const PortSpec& spec() const { return session_.spec(); }
  const Session& session() const { return session_; }
  const std::string& daemon_socket() const { return daemon_socket_; }
  int index_page_fd() const { return page_.fd(); }

 private:
  using Clock = std::chrono::steady_clock;
  struct Peer {  // one connection; member order: the watcher borrows the channel's descriptor
    Peer(boost::asio::io_context& io, UniqueFd fd, std::function<void()> ready, std::function<void()> writable)
        : channel(std::move(fd)), watcher(io, channel.fd(), std::move(ready), std::move(writable)) {}
    vhost_user::Channel channel;
    FdWatcher watcher;
  };

  SessionIo(boost::asio::io_context& io, SocketWatch& watch, EventSignal& signal, const PortSpec& spec,
            const FeatureContract& contract, std::string daemon_socket, UniqueFd listener, IndexPageFile page,
            Observer& observer);

  void TryConnect();
  void RetryConnect();
  void ReadFrontend();
  void ReadDaemon();
  bool MayReadFrontend() const;
  void AcceptDaemon(UniqueFd fd);
  void Apply(Actions actions);
  void Do(SendToFrontend& action);
  void Do(SendToDaemon& action);
  void Do(CloseFrontend& action);
  void Do(CloseDaemon& action);
  void Do(SignalCalls& action);
  void Do(Announce& action);
  void Do(StateChanged& action);
  void Do(Synced& action);
  void Do(Note& action);
  void Do(ArmDeadline& action);
  void Do(DisarmDeadline& action);
  void UpdateInterest();
  void CountResync();
  void DropFrontend();
  void DropDaemon();
  void LoseFrontend(const std::string& reason);
  void LoseDaemon(const std::string& reason);

  boost::asio::io_context& io_;
  SocketWatch& watch_;
  EventSignal& signal_;
  Observer& observer_;
  const std::string daemon_socket_;
  IndexPageFile page_;
  RealGuestFiles files_;
  Session session_;

  std::unique_ptr<Peer> frontend_;
  std::unique_ptr<Peer> daemon_;
  UniqueFd listener_;
  Acceptor accept_;
  Timer connect_retry_, half_message_, reply_deadline_, hold_back_;
  Timer frontend_settled_, daemon_settled_, resync_pause_;
  std::chrono::milliseconds connect_delay_{1};
  std::chrono::milliseconds refusal_delay_{0};    // doubled each time a front-end breaks a rule, until one stays
  std::chrono::milliseconds hold_back_delay_{0};  // doubled each time a daemon has to be dropped, until one stays
  Clock::time_point daemon_since_;
  std::string connect_trouble_;      // as logged last
  Clock::time_point resync_window_;  // when the present second began
  unsigned resyncs_ = 0;             // in it
  RefusalLog notes_;                 // the front-end causes them
};

}  // namespace everport
