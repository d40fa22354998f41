#pragma once

#include <boost/asio/io_context.hpp>
#include <boost/asio/steady_timer.hpp>
#include <chrono>
#include <functional>
#include <memory>

namespace everport {

// One deadline. Arming replaces an earlier one; a cancelled one never calls, though it may already have expired. May be
// destroyed or armed anew inside its callback.
class Timer {
 public:
  explicit Timer(boost::asio::io_context& io) : timer_(io), shot_(std::make_shared<unsigned>(0)) {}
  ~Timer() { Cancel(); }
  Timer(const Timer&) = delete;
  Timer& operator=(const Timer&) = delete;

  void Arm(std::chrono::milliseconds after, std::function<void()> call) {
    Cancel();
    armed_ = true;
    timer_.expires_after(after);
    timer_.async_wait([this, shot = shot_, mine = *shot_, call = std::move(call)](const boost::system::error_code& e) {
      if (e || *shot != mine) return;
      armed_ = false;
      call();
    });
  }
  void Cancel() {
    ++*shot_;
    armed_ = false;
    timer_.cancel();
  }
  bool armed() const { return armed_; }

 private:
  boost::asio::steady_timer timer_;
  std::shared_ptr<unsigned> shot_;  // outlives this in handlers on their way
  bool armed_ = false;
};

}  // namespace everport
