#pragma once

// Accepts connections for as long as it is open. Internal to the listeners; control thread.

#include <boost/asio/basic_socket_acceptor.hpp>
#include <boost/asio/basic_stream_socket.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/system/error_code.hpp>
#include <chrono>
#include <functional>
#include <memory>
#include <utility>

#include "backend/base/log.h"

namespace everport {

template <typename Protocol>
class AcceptLoop : public std::enable_shared_from_this<AcceptLoop<Protocol>> {
 public:
  using Executor = boost::asio::io_context::executor_type;
  using Socket = boost::asio::basic_stream_socket<Protocol, Executor>;

  AcceptLoop(boost::asio::io_context& io, std::function<void(Socket)> on_socket)
      : acceptor_(io), retry_(io), on_socket_(std::move(on_socket)) {}

  // To be bound and set listening before Accept.
  boost::asio::basic_socket_acceptor<Protocol, Executor>& acceptor() { return acceptor_; }

  void Accept() {
    acceptor_.async_accept([self = this->shared_from_this()](boost::system::error_code error, Socket socket) {
      self->OnAccept(error, std::move(socket));
    });
  }
  // on_socket is not called any more.
  void Close() {
    closed_ = true;
    boost::system::error_code ignored;
    acceptor_.close(ignored);
    retry_.cancel();
  }

 private:
  void OnAccept(boost::system::error_code error, Socket socket) {
    if (closed_) return;
    if (!error) {
      on_socket_(std::move(socket));
      if (!closed_) Accept();
      return;
    }
    // Out of descriptors, mostly: it passes.
    spdlog::warn("api: accept: {}; trying again in 100 ms", error.message());
    retry_.expires_after(std::chrono::milliseconds(100));
    retry_.async_wait([self = this->shared_from_this()](boost::system::error_code canceled) {
      if (!canceled && !self->closed_) self->Accept();
    });
  }

  boost::asio::basic_socket_acceptor<Protocol, Executor> acceptor_;
  boost::asio::basic_waitable_timer<std::chrono::steady_clock, boost::asio::wait_traits<std::chrono::steady_clock>,
                                    Executor>
      retry_;
  const std::function<void(Socket)> on_socket_;
  bool closed_ = false;
};

}  // namespace everport
