#pragma once

#include <atomic>
#include <boost/asio/io_context.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/thread_pool.hpp>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <utility>

namespace everport {

// One thread for what may block on a device (probing a PCI device, stopping a vDPA device), so that the control thread
// does not. Jobs run one after another, in the order given. The destructor waits for the one that is under way, skips
// those with a result that nobody will take, and ends results that have not been taken. Control thread.
class DeviceWorker {
 public:
  explicit DeviceWorker(boost::asio::io_context& io) : io_(io) {}
  ~DeviceWorker() {
    stopping_ = true;
    thread_.join();
    for (auto& [id, discard] : std::exchange(untaken_, {})) discard();
  }
  DeviceWorker(const DeviceWorker&) = delete;
  DeviceWorker& operator=(const DeviceWorker&) = delete;

  // Runs job there, and then done, with its result, on the control thread. Jobs own what they use.
  template <typename Result>
  void Run(std::function<Result()> job, std::function<void(Result)> done) {
    auto result = std::make_shared<std::optional<Result>>();
    const uint64_t id = next_++;
    untaken_[id] = [result] { result->reset(); };
    boost::asio::post(thread_, [this, id, result, job = std::move(job), done = std::move(done)]() mutable {
      if (stopping_) return;
      result->emplace(job());
      job = nullptr;  // what it owns ends here
      boost::asio::post(io_, [this, id, result, done = std::move(done)] {
        if (!result->has_value()) return;  // the worker has gone
        untaken_.erase(id);
        done(std::move(**result));
      });
    });
  }
  // Runs job there, even when the worker is about to end.
  void Run(std::function<void()> job) { boost::asio::post(thread_, std::move(job)); }

 private:
  boost::asio::io_context& io_;
  uint64_t next_ = 0;
  std::map<uint64_t, std::function<void()>> untaken_;
  std::atomic<bool> stopping_{false};
  boost::asio::thread_pool thread_{1};
};

}  // namespace everport
