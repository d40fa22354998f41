#include "backend/datapath/device_thread.h"

#include <poll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <utility>

#include "backend/base/unique_fd.h"

namespace everport {

class DeviceThread::Core {
 public:
  Core() : wake_(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) {}

  void Loop() {
    for (;;) {
      Job job;
      {
        const std::lock_guard lock(mutex_);
        std::swap(job, job_);
        if (!job && ending_) break;
      }
      if (!job) {
        Wait();
        continue;
      }
      job();
      job = nullptr;
      const std::lock_guard lock(mutex_);
      busy_ = false;
      done_.notify_all();
    }
    watch_ = {};
  }

  bool Run(Job job, absl::Duration bound) {
    {
      const std::lock_guard lock(mutex_);
      if (lost_) return false;
      job_ = std::move(job);
      busy_ = true;
    }
    Wake();
    if (WaitDone(bound)) return true;
    const std::lock_guard lock(mutex_);
    if (!busy_) return true;
    lost_ = ending_ = true;
    return false;
  }

  bool WaitDone(absl::Duration bound) {
    std::unique_lock lock(mutex_);
    return done_.wait_for(lock, absl::ToChronoNanoseconds(bound), [this] { return !busy_; });
  }

  void End() {
    {
      const std::lock_guard lock(mutex_);
      ending_ = true;
    }
    Wake();
  }

  bool lost() const {
    const std::lock_guard lock(mutex_);
    return lost_;
  }

  void SetWatch(Watch watch) { watch_ = std::move(watch); }

 private:
  void Wake() {
    const uint64_t one = 1;
    [[maybe_unused]] const auto written = ::write(wake_.get(), &one, sizeof one);
  }

  void Wait() {
    std::vector<pollfd> fds = {{wake_.get(), POLLIN, 0}};
    for (const int fd : watch_.fds) fds.push_back({fd, POLLIN, 0});
    const bool timed = watch_.look && watch_.period != absl::InfiniteDuration();
    const int period = timed ? static_cast<int>(absl::ToInt64Milliseconds(watch_.period)) : -1;
    ::poll(fds.data(), fds.size(), period);
    if (fds[0].revents != 0) {
      uint64_t count;
      [[maybe_unused]] const auto got = ::read(wake_.get(), &count, sizeof count);
      return;  // a job is more urgent
    }
    if (watch_.look) watch_.look();
  }

  const UniqueFd wake_;
  mutable std::mutex mutex_;
  std::condition_variable done_;
  Job job_;              // under mutex_, until the thread takes it
  bool busy_ = false;    // under mutex_: a job was given and has not ended
  bool ending_ = false;  // under mutex_: the thread ends when it has no job
  bool lost_ = false;    // under mutex_
  Watch watch_;          // the thread's
};

DeviceThread::DeviceThread() : core_(std::make_shared<Core>()) {
  thread_ = std::thread([core = core_] { core->Loop(); });
}

DeviceThread::~DeviceThread() {
  core_->End();
  if (core_->lost()) {
    thread_.detach();
  } else {
    thread_.join();
  }
}

bool DeviceThread::Run(Job job, absl::Duration bound) {
  return core_->Run(std::move(job), bound);
}

bool DeviceThread::WaitFor(absl::Duration longer) {
  return core_->WaitDone(longer);
}

bool DeviceThread::lost() const {
  return core_->lost();
}

void DeviceThread::SetWatch(Core& core, Watch watch) {
  core.SetWatch(std::move(watch));
}

}  // namespace everport
