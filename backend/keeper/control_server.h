#pragma once

#include <boost/asio/io_context.hpp>
#include <deque>
#include <map>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "backend/base/unique_fd.h"
#include "backend/keeper/acceptor.h"
#include "backend/keeper/control_protocol.h"

namespace everport {

// The keeper's end of keeper.sock (control_protocol.h). Daemons come and go, several at a time, each for its own ports.
// The keeper's one thread.
class ControlServer {
 public:
  // What a daemon may ask for; owner is its name.
  class Ports {
   public:
    struct Added {
      std::string socket;
      int index_page_fd;  // borrowed
      SessionState state;
      std::string reason;
      Postcopy postcopy;
    };
    virtual ~Ports() = default;
    virtual std::vector<PortSession> List(const std::string& owner) const = 0;
    virtual absl::StatusOr<Added> Add(const PortSpec& spec, const std::string& owner) = 0;
    virtual absl::Status Remove(const std::string& name, const std::string& owner) = 0;
  };

  static absl::StatusOr<std::unique_ptr<ControlServer>> Listen(boost::asio::io_context& io, const std::string& path,
                                                               Ports& ports);
  ~ControlServer();

  // To every connection of that owner. One that does not read loses its connection rather than an
  // event, when 4 MiB wait for it.
  void Push(const std::string& owner, const ControlMessage& event);

 private:
  struct Client;
  ControlServer(boost::asio::io_context& io, std::string path, UniqueFd listener, Ports& ports);
  void Accept(UniqueFd fd);
  void Read(int id);
  void Flush(int id);
  void Drop(int id);
  bool Send(Client& client, const ControlMessage& message, int fd = -1);  // false: the connection is of no use
  bool Answer(Client& client, const ControlRequest& request);

  boost::asio::io_context& io_;
  const std::string path_;
  Ports& ports_;
  UniqueFd listener_;
  Acceptor accept_;
  int next_id_ = 0;
  std::map<int, std::unique_ptr<Client>> clients_;
};

}  // namespace everport
