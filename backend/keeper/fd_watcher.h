#pragma once

#include <boost/asio/io_context.hpp>
#include <boost/asio/posix/stream_descriptor.hpp>
#include <functional>
#include <memory>

namespace everport {

// Calls back on the io_context's thread each time a descriptor is ready, as long as that is wanted. Borrows the
// descriptor: destroy this first. May be destroyed inside its own callback.
class FdWatcher {
 public:
  FdWatcher(boost::asio::io_context& io, int fd, std::function<void()> readable, std::function<void()> writable = {})
      : state_(std::make_shared<State>(io, fd, std::move(readable), std::move(writable))) {}
  ~FdWatcher() {
    state_->alive = false;
    state_->descriptor.release();  // cancels; the descriptor stays open
  }
  FdWatcher(const FdWatcher&) = delete;
  FdWatcher& operator=(const FdWatcher&) = delete;

  void WantRead(bool want) {
    state_->want_read = want;
    Arm(state_, false);
  }
  void WantWrite(bool want) {
    state_->want_write = want;
    Arm(state_, true);
  }

 private:
  struct State {
    State(boost::asio::io_context& io, int fd, std::function<void()> on_read, std::function<void()> on_write)
        : descriptor(io, fd), readable(std::move(on_read)), writable(std::move(on_write)) {}
    boost::asio::posix::stream_descriptor descriptor;
    std::function<void()> readable, writable;
    bool alive = true;
    bool want_read = false, want_write = false;
    bool read_armed = false, write_armed = false;
  };

  static void Arm(const std::shared_ptr<State>& state, bool write) {
    bool& armed = write ? state->write_armed : state->read_armed;
    if (armed || !(write ? state->want_write : state->want_read)) return;
    armed = true;
    using Wait = boost::asio::posix::stream_descriptor;
    state->descriptor.async_wait(write ? Wait::wait_write : Wait::wait_read,
                                 [state, write](const boost::system::error_code& error) {
                                   (write ? state->write_armed : state->read_armed) = false;
                                   if (error || !state->alive) return;
                                   if (write ? state->want_write : state->want_read)
                                     (write ? state->writable : state->readable)();
                                   if (state->alive) Arm(state, write);
                                 });
  }

  std::shared_ptr<State> state_;
};

}  // namespace everport
