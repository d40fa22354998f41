#pragma once

#include <boost/asio/io_context.hpp>
#include <cstddef>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "backend/api/api_limits.h"
#include "backend/api/service_api.h"

namespace everport {

// The API on a Unix stream socket: HTTP/1.1 with keep-alive, answered by Route (routes.h). Has no thread of its own:
// everything, the constructor and destructor included, runs on the one thread that runs `io`.
class ApiServer {
 public:
  // Listens on socket_path, mode 0660. A stale socket file there is replaced; AlreadyExists when somebody listens on
  // it, FailedPrecondition when the file is no socket, otherwise what the system refused. `service` outlives the
  // server.
  static absl::StatusOr<std::unique_ptr<ApiServer>> Listen(boost::asio::io_context& io, ServiceApi& service,
                                                           const std::string& socket_path,
                                                           const ApiLimits& limits = {});
  // Closes all connections, and removes the socket file if it is still the server's own. Requests that the service has
  // not answered yet are forgotten: their `done` may still be called.
  ~ApiServer();
  ApiServer(const ApiServer&) = delete;
  ApiServer& operator=(const ApiServer&) = delete;

  size_t connections() const;

 private:
  class Acceptor;
  explicit ApiServer(std::unique_ptr<Acceptor> acceptor);
  const std::unique_ptr<Acceptor> acceptor_;
};

}  // namespace everport
