#pragma once

#include <boost/asio/io_context.hpp>
#include <boost/asio/posix/stream_descriptor.hpp>
#include <boost/asio/steady_timer.hpp>
#include <deque>
#include <functional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "backend/base/unique_fd.h"
#include "backend/keeper/control_protocol.h"

namespace everport {

// The daemon's end of <run_dir>/keeper.sock (backend/keeper/control_protocol.h). Connects, and connects again when the
// keeper goes, for as long as it lives. Control thread.
class KeeperClient {
 public:
  class Listener {
   public:
    virtual ~Listener() = default;
    virtual void OnKeeperConnected() = 0;
    virtual void OnKeeperLost(const std::string& reason) = 0;
    virtual void OnSession(const SessionEvent& event) = 0;
    virtual void OnAnnounce(const AnnounceEvent& event) = 0;
  };
  struct Answer {
    ControlReply reply;
    UniqueFd fd;  // of add: the index page
  };
  // Called once: the keeper's answer, its refusal (FailedPrecondition, its words), or Unavailable when it went away.
  using Done = std::function<void(absl::StatusOr<Answer>)>;

  KeeperClient(boost::asio::io_context& io, std::string socket, std::string daemon, Listener& listener);
  ~KeeperClient();

  void Start();
  void Send(const ControlRequest& request, Done done);
  bool connected() const { return greeted_; }
  // Why it is not connected: cause and mend; empty while it is.
  const std::string& trouble() const { return trouble_; }

 private:
  void Connect();
  void Greet();
  void Read();
  bool ReadOne();  // false: nothing more now
  void Take(std::string_view packet, UniqueFd fd);
  void Lose(const std::string& reason);
  void ArmDeadline();

  boost::asio::posix::stream_descriptor socket_;
  boost::asio::steady_timer retry_;
  boost::asio::steady_timer deadline_;  // of the oldest reply that we wait for
  const std::string path_;
  const std::string daemon_;
  Listener& listener_;
  bool greeted_ = false;
  std::string trouble_ = "not tried yet";
  std::deque<Done> waiting_;  // for replies, in order
};

}  // namespace everport
