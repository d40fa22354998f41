#pragma once

// A connection whose kind, plain or TLS, is hidden, so that what speaks HTTP over it is compiled once (Beast's and
// OpenSSL's templates multiply otherwise). One thread, the io_context's.

#include <boost/asio/async_result.hpp>
#include <boost/asio/buffer.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/system/error_code.hpp>
#include <chrono>
#include <functional>
#include <memory>
#include <utility>
#include <vector>

namespace everport {

// An AsyncReadStream and AsyncWriteStream of Boost.Asio. One read and one write at a time; handlers come by the
// io_context, never from inside the call, and with an error after Close(). The stream must live until they have come.
class AnyStream {
 public:
  using executor_type = boost::asio::io_context::executor_type;
  using error_code = boost::system::error_code;
  using Done = std::function<void(error_code, size_t)>;

  virtual ~AnyStream() = default;
  virtual executor_type get_executor() = 0;

  // The time for what begins next; beast::error::timeout is what it ends with then, and the socket is closed.
  virtual void ExpiresAfter(std::chrono::milliseconds time) = 0;
  virtual void ExpiresNever() = 0;
  // Tells the other end that nothing more comes, if the kind has a word for it (TLS's close_notify); then calls done,
  // of a kind that has none at once.
  virtual void SayGoodbye(std::function<void()> done) = 0;
  virtual void StopSending() = 0;  // of the socket
  // The socket's own bytes, undeciphered.
  virtual void ReadBelow(boost::asio::mutable_buffer into, Done done) = 0;
  virtual void Close() = 0;

  template <typename Buffers, typename Handler>
  auto async_read_some(const Buffers& buffers, Handler&& handler) {
    return boost::asio::async_initiate<Handler, void(error_code, size_t)>(
        [this](auto&& completion, const Buffers& into) { Read(First(into), Share(std::move(completion))); }, handler,
        buffers);
  }
  template <typename Buffers, typename Handler>
  auto async_write_some(const Buffers& buffers, Handler&& handler) {
    return boost::asio::async_initiate<Handler, void(error_code, size_t)>(
        [this](auto&& completion, const Buffers& from) { Write(All(from), Share(std::move(completion))); }, handler,
        buffers);
  }

 protected:
  virtual void Read(boost::asio::mutable_buffer into, Done done) = 0;
  virtual void Write(std::vector<boost::asio::const_buffer> from, Done done) = 0;

 private:
  template <typename Buffers>
  static boost::asio::mutable_buffer First(const Buffers& buffers) {
    const auto end = boost::asio::buffer_sequence_end(buffers);
    for (auto it = boost::asio::buffer_sequence_begin(buffers); it != end; ++it) {
      if (const boost::asio::mutable_buffer buffer = *it; buffer.size() > 0) return buffer;
    }
    return {};
  }
  template <typename Buffers>
  static std::vector<boost::asio::const_buffer> All(const Buffers& buffers) {
    return {boost::asio::buffer_sequence_begin(buffers), boost::asio::buffer_sequence_end(buffers)};
  }
  // A completion handler can be moved alone, what a std::function holds must be copied.
  template <typename Handler>
  static Done Share(Handler&& handler) {
    auto shared = std::make_shared<std::decay_t<Handler>>(std::forward<Handler>(handler));
    return [shared](error_code error, size_t bytes) { std::move (*shared)(error, bytes); };
  }
};

}  // namespace everport
