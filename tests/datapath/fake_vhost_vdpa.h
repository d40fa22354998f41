#pragma once

#include <condition_variable>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "backend/base/unique_fd.h"
#include "backend/datapath/vhost_vdpa_kernel.h"
#include "backend/datapath/virtio_net_abi.h"

namespace everport {

// The kernel with one vDPA device in it, for tests: keeps what it is told, writes down every call, fails or hangs where
// the test says. Calls come from the device's thread; the test may look and change at any time through the lock.
class FakeVhostVdpa final : public VhostVdpaKernel {
 public:
  struct Ring {
    uint32_t num = 0, base = 0;
    uint64_t desc = 0, avail = 0, used = 0;
    bool kick = false, call = false, enabled = false;
    UniqueFd kick_fd, call_fd;
  };
  struct State {
    // The device
    uint32_t device_id = 1;
    uint64_t features = 0, backend_features = (1u << 1) | (1u << 2);  // IOTLB_MSG_V2, IOTLB_BATCH
    uint64_t refused_features = 0;                                    // FEATURES_OK does not stay with these
    uint16_t ring_size = 1024, max_queue_pairs = 1, link = 1;
    uint32_t queues = 2;
    uint64_t last_iova = UINT64_MAX;
    std::map<uint32_t, uint32_t> positions;  // what GET_VRING_BASE says; else the base that was set
    bool present = true;
    int open_error = 0;
    // What it was told
    uint64_t acked = 0, backend_acked = 0;
    uint8_t status = 0;
    unsigned resets = 0;  // times that status became 0
    std::map<uint32_t, Ring> rings;
    std::map<uint64_t, std::pair<uint64_t, uint64_t>> maps;  // IOVA: size, address
    UniqueFd config_call;
    int open = 0, closed = 0;
    std::vector<std::string> calls;  // "SET_STATUS 15", "MAP 0", "SUSPEND", …
    // Faults: by the first word of the call
    std::map<std::string, int> errors;
    std::map<std::string, bool> hangs;
  };

  FakeVhostVdpa();
  ~FakeVhostVdpa() override;

  int Open(const std::string& path) override;
  void Close(int fd) override;
  int Ioctl(int fd, unsigned long request, void* argument) override;
  int Write(int fd, const void* data, size_t bytes) override;
  bool Present(int fd) override;
  int Watch(const std::string& path) override;

  // For the test.
  template <typename F>
  auto With(F&& f) {
    const std::lock_guard lock(mutex_);
    return f(state_);
  }
  void Hang(const std::string& call);
  void Release(const std::string& call);
  // Waits until a call of that name hangs, or condition holds, as something was called; false after 10 s.
  bool AwaitHanging(const std::string& call);
  bool Await(const std::function<bool(const State&)>& condition);
  void SignalConfig();
  void Remove();  // the device, and its node
  // A control queue: each command is answered with this, or never (-1). Call before Start.
  void AnswerControl(uint32_t index, int ack);
  // A transmit queue of one descriptor a frame: frames() are those that came by it, without their virtio-net headers.
  void TakeFrames(uint32_t index);
  std::vector<std::vector<uint8_t>> frames() const;
  std::vector<uint16_t> control_pairs() const;  // of the commands seen

 private:
  // Notes the call; its error, or 0. Waits while the test lets it hang.
  int Enter(std::unique_lock<std::mutex>& lock, const std::string& call);
  int RingIoctl(unsigned long request, void* argument, std::unique_lock<std::mutex>& lock);
  // The device's end of a ring, on a thread of its own: each chain goes to `work`, with the lock held; false: it is
  // never used.
  void Serve(uint32_t index, const std::function<bool(virtio_net::Desc* desc, uint16_t head)>& work);
  uint8_t* Address(uint64_t iova);

  mutable std::mutex mutex_;
  std::condition_variable changed_;
  State state_;
  std::string hanging_;
  UniqueFd watch_;
  std::vector<uint16_t> control_pairs_;
  std::vector<std::vector<uint8_t>> frames_;
  bool ending_ = false;
  std::thread control_, transmit_;
};

}  // namespace everport
