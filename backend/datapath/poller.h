#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <mutex>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "backend/base/unique_fd.h"
#include "backend/datapath/lane.h"

struct rte_rcu_qsbr;

namespace everport {

// What a poller has done; written by it, read by anyone.
struct PollerCounters {
  std::atomic<uint64_t> loops{0}, sleeps{0}, wakeups{0}, slept_ns{0};
};

// One thread (an EAL lcore) that polls its lanes, and sleeps when nothing comes: after kSpinUs without a frame it asks
// every lane to be woken, looks once more, and waits until a kick or the uplink's descriptor wakes it, at most
// max_sleep_us when some queue has no descriptor to wait for. max_sleep_us = 0: it never sleeps.
//
// Threads: the constructor, Start, Add, Remove, Wake and the destructor on the control thread.
class Poller {
 public:
  Poller(int index, unsigned lcore, std::string cpus, int numa_node, uint32_t max_sleep_us, rte_rcu_qsbr* rcu);
  ~Poller();  // stops and joins; no lane may be left
  Poller(const Poller&) = delete;
  Poller& operator=(const Poller&) = delete;

  absl::Status Start();
  // The lane stays the caller's, who must not touch it until Remove has returned.
  void Add(Lane* lane);
  // Returns when the poller has let go of the lane, its endpoints and its descriptors.
  void Remove(Lane* lane);
  // Runs `change` on the poller's thread, outside the lane, and returns when it has: the lane's path may be another
  // afterwards, and the poller has let go of the descriptors of the one before. For how long the lane was not polled.
  absl::Duration Apply(Lane* lane, const std::function<void()>& change);
  // Makes it look at its lanes now: a guest's queues have changed. Any thread.
  void Wake();

  int index() const { return index_; }
  const std::string& cpus() const { return cpus_; }
  int numa_node() const { return numa_node_; }
  unsigned lanes() const { return lane_count_; }
  const PollerCounters& counters() const { return counters_; }

 private:
  struct Slot {
    Lane* lane;
    uint32_t generation = ~0u;  // as of Watch
    bool waiting = false;       // wake descriptors are in epoll and notification is on
    bool complete = true;       // every queue has a descriptor
    std::vector<UniqueFd> fds;
  };

  static int Main(void* self);
  void RunOnce();
  void TakeMail();
  unsigned PollLanes();
  void PrepareToSleep();
  void Sleep();
  void Wait();
  static void DisarmAll(Slot& slot);
  void StopWaiting(Slot& slot);
  void Watch(Slot& slot);
  void Mail(std::function<void()> letter);
  void MailAndWait(std::function<void()> letter);

  const int index_;
  const unsigned lcore_;
  const std::string cpus_;
  const int numa_node_;
  const uint32_t max_sleep_us_;
  rte_rcu_qsbr* const rcu_;
  UniqueFd epoll_, bell_;
  bool started_ = false;
  unsigned lane_count_ = 0;  // control thread's count

  std::mutex mutex_;
  std::vector<std::function<void()>> mail_;
  std::atomic<bool> has_mail_{false};
  std::atomic<bool> ended_{false};

  // The poller's own.
  bool stop_ = false;
  uint64_t idle_since_ = 0;  // TSC; 0: not idle
  std::vector<Slot> slots_;
  PollerCounters counters_;
};

}  // namespace everport
