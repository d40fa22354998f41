#pragma once

#include <functional>
#include <memory>
#include <thread>
#include <vector>

#include "absl/time/time.h"

namespace everport {

// A thread for calls that may block in the kernel longer than their caller can wait: a VDUSE device's process that has
// died holds an ioctl up for its msg_timeout, 30 s unless set otherwise, or for ever.
//
// A job that is not done in time is not broken off, which cannot be done: the thread is given up ("lost"), goes on with
// it by itself and ends when it is done. So jobs own all that they use (no references to their caller, nothing static),
// and drop it on this thread, as closing such a device may block as well. A thread in such a wait does not keep the
// process from exiting; the kernel may, until msg_timeout, if it closes the device then.
//
// One caller at a time.
class DeviceThread {
 public:
  using Job = std::function<void()>;

  DeviceThread();
  // Waits for the thread, unless it is lost: then it ends by itself.
  ~DeviceThread();
  DeviceThread(const DeviceThread&) = delete;
  DeviceThread& operator=(const DeviceThread&) = delete;

  // True: job has run and what it owned is gone. False: not in time, or the thread was lost before (then job never
  // runs).
  bool Run(Job job, absl::Duration bound);
  // After Run has returned false for lack of time: waits longer. True: the job has run; the thread stays lost.
  bool WaitFor(absl::Duration longer);
  bool lost() const;

  // What the thread does between jobs: `look` when one of fds is readable, and after each `period`. Called from a job.
  struct Watch {
    Job look;
    std::vector<int> fds;
    absl::Duration period = absl::InfiniteDuration();
  };
  class Core;
  static void SetWatch(Core& core, Watch watch);
  // For jobs; outlives the thread.
  const std::shared_ptr<Core>& core() const { return core_; }

 private:
  std::shared_ptr<Core> core_;
  std::thread thread_;
};

}  // namespace everport
