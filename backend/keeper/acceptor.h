#pragma once

#include <boost/asio/io_context.hpp>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <functional>
#include <string>
#include <utility>

#include "backend/base/log.h"
#include "backend/base/unique_fd.h"
#include "backend/keeper/fd_watcher.h"
#include "backend/keeper/timer.h"
#include "backend/keeper/unix_socket.h"

namespace everport {

// Accepts from a listening socket as long as that is wanted. Where the process or the machine has no room for another
// descriptor the connection waits in the backlog and is tried again every 100 ms: it stays readable, a wait would
// return at once. Borrows the listener. The io_context's thread.
class Acceptor {
 public:
  // what: for the log.
  Acceptor(boost::asio::io_context& io, std::string what, int listener, std::function<void(UniqueFd)> accepted)
      : what_(std::move(what)),
        listener_(listener),
        accepted_(std::move(accepted)),
        watcher_(io, listener, [this] { Ready(); }),
        pause_(io) {}

  void Want(bool want) {
    want_ = want;
    watcher_.WantRead(want_ && !pause_.armed());
  }

 private:
  void Ready() {
    errno = 0;
    UniqueFd fd = AcceptUnix(listener_);
    const int error = errno;
    if (fd.valid()) {
      short_noted_ = false;
      return accepted_(std::move(fd));
    }
    if (error != EMFILE && error != ENFILE && error != ENOBUFS && error != ENOMEM) return;
    if (!std::exchange(short_noted_, true))
      spdlog::error("{}: cannot accept: {}; tried again every 100 ms (raise LimitNOFILE=)", what_,
                    std::strerror(error));
    pause_.Arm(std::chrono::milliseconds(100), [this] { Want(want_); });
    Want(want_);
  }

  const std::string what_;
  const int listener_;
  const std::function<void(UniqueFd)> accepted_;
  bool want_ = false;
  bool short_noted_ = false;  // one log line until it works again
  FdWatcher watcher_;
  Timer pause_;
};

}  // namespace everport
