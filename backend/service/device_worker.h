#pragma once

#include <atomic>
#include <boost/asio/io_context.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/thread_pool.hpp>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <utility>

#include "absl/time/clock.h"
#include "absl/time/time.h"

namespace everport {

// What a job of a DeviceWorker is about, for those who ask why theirs has not come yet.
struct AboutJob {
  std::string port = {};
  std::string what = {};  // "vdev net_null0"
  uint64_t serial = 0;    // of the uplink
  bool opening = true;    // else it is being closed
};

// One thread for what may block on a device (probing a PCI device, stopping a vDPA device), so that the control thread
// does not. Jobs run one after another, in the order given. The destructor waits for the one that is under way, skips
// those with a result that nobody will take, and ends results that have not been taken. Control thread.
class DeviceWorker {
 public:
  // A job that takes longer is worth a word: all others wait for it.
  static constexpr absl::Duration kSlow = absl::Seconds(2);

  using About = AboutJob;
  struct Busy {
    About about;
    absl::Time since;
    uint64_t job;  // another for each
  };

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
  void Run(std::function<Result()> job, std::function<void(Result)> done, About about = {}) {
    auto result = std::make_shared<std::optional<Result>>();
    const uint64_t id = next_++;
    untaken_[id] = [result] { result->reset(); };
    Post(std::move(about), [this, id, result, job = std::move(job), done = std::move(done)]() mutable {
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
  void Run(std::function<void()> job, About about = {}) { Post(std::move(about), std::move(job)); }

  // The job that has been under way for longer than kSlow.
  std::optional<Busy> slow(absl::Time now = absl::Now()) const {
    const std::lock_guard lock(mutex_);
    if (!busy_ || now - busy_->since <= kSlow) return std::nullopt;
    return busy_;
  }

  // The worker is to end: as its destructor, but waits no longer than this. False: a job is still under way, or waits
  // behind it; then the destructor must not be run, as it would wait.
  bool Finish(absl::Duration bound) {
    stopping_ = true;
    std::unique_lock lock(mutex_);
    return idle_.wait_for(lock, absl::ToChronoNanoseconds(bound), [this] { return unfinished_ == 0; });
  }

 private:
  template <typename Job>
  void Post(About about, Job job) {
    {
      const std::lock_guard lock(mutex_);
      ++unfinished_;
    }
    boost::asio::post(thread_, [this, about = std::move(about), job = std::move(job), id = next_++]() mutable {
      {
        const std::lock_guard lock(mutex_);
        busy_ = Busy{std::move(about), absl::Now(), id};
      }
      job();
      const std::lock_guard lock(mutex_);
      busy_.reset();
      if (--unfinished_ == 0) idle_.notify_all();
    });
  }

  boost::asio::io_context& io_;
  uint64_t next_ = 1;
  std::map<uint64_t, std::function<void()>> untaken_;
  std::atomic<bool> stopping_{false};
  mutable std::mutex mutex_;
  std::condition_variable idle_;
  std::optional<Busy> busy_;  // under mutex_: what the thread does
  uint64_t unfinished_ = 0;   // under mutex_: jobs given
  boost::asio::thread_pool thread_{1};
};

}  // namespace everport
