#pragma once

#include <boost/asio/io_context.hpp>
#include <chrono>
#include <map>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "backend/base/event_signal.h"
#include "backend/config/config.h"
#include "backend/keeper/control_server.h"
#include "backend/keeper/session_io.h"
#include "backend/keeper/socket_watch.h"

namespace everport {

// All ports of the keeper and who owns them. One thread: the io_context's.
class Keeper : private ControlServer::Ports, private SessionIo::Observer {
 public:
  explicit Keeper(boost::asio::io_context& io);
  ~Keeper() override;

  // Makes the folders and sockets under config.daemon.run_dir and serves the ports of the file, which belong to
  // config.daemon.name. AlreadyExists when another keeper answers there.
  absl::Status Start(const Config& config);
  size_t ports() const { return ports_.size(); }

 private:
  struct Port {
    std::string owner;
    std::unique_ptr<SessionIo> io;
    std::chrono::steady_clock::time_point announced{};  // last
  };

  std::vector<PortSession> List(const std::string& owner) const override;
  absl::StatusOr<ControlServer::Ports::Added> Add(const PortSpec& spec, const std::string& owner) override;
  absl::Status Remove(const std::string& name, const std::string& owner) override;
  void OnSessionState(const std::string& port, const StateChanged& change) override;
  void OnAnnounce(const std::string& port, const std::array<uint8_t, 6>& mac) override;

  boost::asio::io_context& io_;
  std::string run_dir_;
  SocketWatch watch_;
  EventSignal signal_;
  std::unique_ptr<ControlServer> control_;
  std::map<std::string, Port> ports_;
};

}  // namespace everport
