#pragma once

// AnyStream of one kind: a beast::basic_stream, or an asio::ssl::stream over one. Heavy: for the file that makes them.

#include <boost/asio/socket_base.hpp>
#include <boost/beast/core/basic_stream.hpp>
#include <boost/beast/core/stream_traits.hpp>
#include <utility>
#include <vector>

#include "backend/tls/any_stream.h"

namespace everport {

template <typename Stream>
class AnyStreamOf final : public AnyStream {
 public:
  // What a Stream is made of.
  template <typename... From>
  explicit AnyStreamOf(From&&... from) : stream_(std::forward<From>(from)...) {}

  Stream& stream() { return stream_; }
  // The socket with its timeouts, below TLS if there is any.
  auto& Socket() { return boost::beast::get_lowest_layer(stream_); }

  executor_type get_executor() override { return stream_.get_executor(); }
  void ExpiresAfter(std::chrono::milliseconds time) override { Socket().expires_after(time); }
  void ExpiresNever() override { Socket().expires_never(); }
  void SayGoodbye(std::function<void()> done) override {
    if constexpr (requires { stream_.async_shutdown(nullptr); }) {
      stream_.async_shutdown([done = std::move(done)](error_code) { done(); });
    } else {
      done();
    }
  }
  void StopSending() override {
    error_code ignored;
    Socket().socket().shutdown(boost::asio::socket_base::shutdown_send, ignored);
  }
  void ReadBelow(boost::asio::mutable_buffer into, Done done) override {
    Socket().async_read_some(into, std::move(done));
  }
  void Close() override { Socket().close(); }

 private:
  void Read(boost::asio::mutable_buffer into, Done done) override { stream_.async_read_some(into, std::move(done)); }
  void Write(std::vector<boost::asio::const_buffer> from, Done done) override {
    stream_.async_write_some(std::move(from), std::move(done));
  }

  Stream stream_;
};

}  // namespace everport
