#pragma once

// Internal to tls_listener.cc; control thread.

#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/ssl/context.hpp>
#include <boost/asio/ssl/stream.hpp>
#include <boost/asio/write.hpp>
#include <boost/beast/core/basic_stream.hpp>
#include <chrono>
#include <functional>
#include <memory>
#include <string>
#include <utility>

#include "backend/api/accept_loop.h"
#include "backend/api/http_reply.h"
#include "backend/tls/context.h"

namespace everport {

using TlsStream =
    boost::asio::ssl::stream<boost::beast::basic_stream<boost::asio::ip::tcp, boost::asio::io_context::executor_type>>;

// A connection before it is a session: from its begin to the end of the handshake, or of telling the client that it has
// failed.
class TlsHandshake : public std::enable_shared_from_this<TlsHandshake> {
 public:
  // Called once, at its end, good or bad; then the TlsHandshake is done with, but for what Linger does.
  using Done = std::function<void(TlsHandshake&, boost::system::error_code)>;

  TlsHandshake(AcceptLoop<boost::asio::ip::tcp>::Socket socket, boost::asio::ssl::context& context, std::string address,
               Done done)
      : stream_(std::move(socket), context), address_(std::move(address)), done_(std::move(done)) {
    WatchPeer(stream_.native_handle(), &peer_);
  }

  void Start(std::chrono::milliseconds timeout) {
    Socket().expires_after(timeout);
    stream_.async_handshake(TlsStream::server, [self = shared_from_this()](boost::system::error_code error) {
      if (auto done = std::exchange(self->done_, nullptr)) done(*self, error);
    });
  }
  // From any state, without a call of done or gone.
  void End() {
    done_ = nullptr;
    gone_ = nullptr;
    Socket().close();
  }
  // Ends, and calls gone, once the client has seen what was sent to it (an alert, or this text in plain), or its time
  // is up: a socket that is closed on unread bytes is reset, and the client would read nothing but that.
  void Linger(std::string plain_text, std::function<void(TlsHandshake&)> gone) {
    text_ = std::move(plain_text);
    gone_ = std::move(gone);
    Socket().expires_after(kDrainTime);
    boost::asio::async_write(Socket(), boost::asio::buffer(text_),
                             [self = shared_from_this()](boost::system::error_code, size_t) {
                               boost::system::error_code ignored;
                               self->Socket().socket().shutdown(boost::asio::socket_base::shutdown_send, ignored);
                               self->Drain();
                             });
  }
  bool lingers() const { return !done_; }

  TlsStream TakeStream() {
    WatchPeer(stream_.native_handle(), nullptr);
    return std::move(stream_);
  }
  const TlsPeer& peer() const { return peer_; }
  const std::string& address() const { return address_; }

 private:
  TlsStream::next_layer_type& Socket() { return stream_.next_layer(); }
  void Drain() {
    Socket().async_read_some(boost::asio::buffer(dropped_),
                             [self = shared_from_this()](boost::system::error_code error, size_t bytes) {
                               self->drained_ += bytes;
                               if (!error && self->drained_ <= kDrainBytes) return self->Drain();
                               self->Socket().close();
                               if (auto gone = std::exchange(self->gone_, nullptr)) gone(*self);
                             });
  }

  TlsStream stream_;
  TlsPeer peer_;
  const std::string address_;
  Done done_;
  std::function<void(TlsHandshake&)> gone_;
  std::string text_;
  char dropped_[4096];
  size_t drained_ = 0;
};

}  // namespace everport
