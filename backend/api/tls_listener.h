#pragma once

#include <boost/asio/io_context.hpp>
#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "backend/api/api_limits.h"
#include "backend/api/service_api.h"
#include "backend/config/config.h"

namespace everport {

// The API over TCP with TLS, for clients with a certificate of [daemon.listen] ca: the same routes as on the Unix
// socket. An address that cannot be had and files that will not do leave the daemon without it, or with what was in
// force before, and are tried again; guests are never held up. Has no thread of its own: everything, the constructor
// and destructor included, runs on the one thread that runs `io`.
class TlsListener {
 public:
  // An event for the operator; warning: there is something to do.
  using Tell = std::function<void(const std::string& message, bool warning)>;
  // service outlives it.
  TlsListener(boost::asio::io_context& io, ServiceApi& service, Tell tell, const ApiLimits& limits = {});
  // Closes all connections.
  ~TlsListener();
  TlsListener(const TlsListener&) = delete;
  TlsListener& operator=(const TlsListener&) = delete;

  // Listens so from now on, with the files as they are now; nothing: not at all. New files and a new address hold for
  // new connections; open ones are ended only if their client may no longer connect (`allow`).
  void Configure(const std::optional<ListenConfig>& config);
  // Nothing if it is not configured.
  std::optional<ListenerView> View() const;

 private:
  class Impl;
  const std::shared_ptr<Impl> impl_;
};

}  // namespace everport
