#pragma once

// librte_vhost as the keeper sees it: connects to a port's socket, answers, and connects again at once when it is
// closed. Remembers what it was told. Own thread; methods from any.

#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "absl/time/time.h"
#include "backend/vhost_user/channel.h"

namespace everport {

class FakeDaemon {
 public:
  struct Options {
    std::string socket = {};
    uint64_t features = ~uint64_t{0};
    uint64_t protocol_features = ~uint64_t{0};
    bool silent = false;  // accepts and never answers
    uint32_t base = 0;    // answer to GET_VRING_BASE
  };
  explicit FakeDaemon(Options options);
  ~FakeDaemon() { Kill(); }

  void Kill();  // closes all, for good

  // Waits until SET_VRING_ENABLE (or GET_QUEUE_NUM, where there are no rings yet) has come `times` times over all.
  bool WaitMessages(vhost_user::Request request, unsigned times, absl::Duration timeout);
  unsigned connections() const;
  std::vector<std::string> log() const;                      // of the present connection: "SET_VRING_BASE 0 4711"
  int Fd(vhost_user::Request request, unsigned ring) const;  // the last that came with it; borrowed; -1: none

 private:
  struct Received {
    vhost_user::Message message;
    std::string text;
  };
  void Run();
  void Serve(vhost_user::Channel& channel);
  void Answer(vhost_user::Channel& channel, const vhost_user::Message& message);

  const Options options_;
  UniqueFd stop_;
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<Received> received_;            // under mutex_
  std::vector<vhost_user::Request> history_;  // of all connections, under mutex_
  unsigned connections_ = 0;                  // under mutex_
  std::thread thread_;
};

}  // namespace everport
