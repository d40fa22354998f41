#pragma once

// Lets pollers into a dirty log that may be exchanged under them. librte_vhost unmaps the old log with its vrings'
// locks held, under which its own marks are made; rte_vhost_log_write (ours) goes without.

#include <atomic>
#include <thread>

namespace everport {

class LogGate {
 public:
  // Any thread. Calls mark(), unless the gate is closed: then whoever opens it sees to what was left out.
  template <typename Mark>
  void Pass(const Mark& mark) {
    inside_.fetch_add(1, std::memory_order_seq_cst);
    if (!closed_.load(std::memory_order_seq_cst)) mark();
    inside_.fetch_sub(1, std::memory_order_release);
  }

  // Nobody is in a mark() any more when it returns. One thread, as Open.
  void Close() {
    closed_.store(true, std::memory_order_seq_cst);
    while (inside_.load(std::memory_order_seq_cst) != 0) std::this_thread::yield();  // a mark() takes a microsecond
  }
  // Whether it was closed.
  bool Open() { return closed_.exchange(false, std::memory_order_seq_cst); }

 private:
  std::atomic<int> inside_{0};
  std::atomic<bool> closed_{false};
};

}  // namespace everport
