#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "backend/datapath/device_thread.h"
#include "backend/datapath/offload_device.h"
#include "backend/datapath/vhost_vdpa_kernel.h"
#include "backend/datapath/vhost_vdpa_session.h"

namespace everport {

// How long a device may take to answer before it is given up.
struct VhostVdpaBounds {
  absl::Duration open = absl::Seconds(3);
  absl::Duration start = absl::Seconds(2);  // and as long again for each 4 GiB that the kernel may have to pin
  absl::Duration stop = absl::Seconds(2);
  absl::Duration stop_in_trouble = absl::Milliseconds(100);  // trouble() or Suspect() has told before
  absl::Duration look_every = absl::Milliseconds(100);       // at status and link, besides interrupts
};

// A vDPA device of the kernel, /dev/vhost-vdpa-N, working on a guest's split rings by itself. GPA is its IOVA.
//
// Positions. After a reset the truth is used->idx in guest memory: what the device has fetched beyond it, it will never
// complete, so both bases become used->idx and whoever comes next does those descriptors again. By the device's own
// account (VHOST_GET_VRING_BASE, exact where it can be suspended first) it may have sent some of them already: Stop
// counts these. Packed rings keep no such index in guest memory, and if the daemon died nobody would know their
// position: refused.
//
// A device that does not answer is given up in bounded time: Stop takes used->idx as it is then, says so, and a thread
// waits for the kernel on its own and closes the node when it can; the object is of no further use. What this leaves:
//  - Hardware: until that reset gets through, it may go on with the descriptors it has fetched, as any device that is
//    removed by surprise: within the guest's memory, which stays pinned until then, even when the guest has gone.
//  - VDUSE: a process that has died touches nothing any more. One that hangs and wakes up later may write to the
//  guest's
//    buffers and used rings before it sees the reset, beside whoever serves them by then: only that guest is hurt, but
//    its rings may break. Nothing but killing the process takes the memory from it. A suspected device whose used
//    indices still move gets the full time, so that one that is only slow to answer is not mistaken for a dead one.
//  - Process exit: the kernel closes the node then, and waits up to msg_timeout of a dead VDUSE process.
//
// Threads as OffloadDevice says.
class VhostVdpaDevice final : public OffloadDevice {
 public:
  // Errors name the node, the cause and the mend.
  static absl::StatusOr<std::unique_ptr<VhostVdpaDevice>> Open(
      const std::string& path, std::shared_ptr<VhostVdpaKernel> kernel = RealVhostVdpaKernel(),
      const VhostVdpaBounds& bounds = {});
  ~VhostVdpaDevice() override;  // bounded as Stop

  uint64_t device_features() const { return info_.features; }
  const VhostVdpaInfo& info() const { return info_; }
  absl::Status Covers(uint64_t features, uint16_t queue_pairs, uint16_t ring_size) const override;
  // The packed ring format, which is refused in any case, does not count.
  uint64_t Lacks(uint64_t contract_features, uint16_t queue_pairs) const override;
  absl::Status Announce(std::span<const uint8_t> frame) override;
  absl::Status Start(const GuestRings& rings) override;
  absl::Status SetNotifiers(const GuestRings& rings) override;
  // DeadlineExceeded: given up, see above. Aborted: stopped, but it had descriptors in flight that are done again.
  // Other errors: stopped, and what was unclean about it.
  absl::Status Stop(GuestRings& rings) override;
  void Suspect() override { suspected_ = true; }

  Trouble trouble() const override { return condition_->trouble.load(std::memory_order_acquire); }
  int event_fd() const override { return condition_->changed.get(); }

 private:
  // Shared with the thread, which may outlive the object.
  struct Condition {
    std::mutex mutex;  // for writing
    std::atomic<Trouble> trouble{Trouble::kNone};
    std::atomic<bool> given_up{false};  // for good; then it is kError
    UniqueFd changed;                   // eventfd

    void Set(Trouble now);
    void GiveUp();
  };

  VhostVdpaDevice(std::string path, const VhostVdpaBounds& bounds);
  absl::Status OpenSession(std::shared_ptr<VhostVdpaKernel> kernel);
  absl::StatusOr<VhostVdpaPlan> MakePlan(const GuestRings& rings) const;
  bool GiveUpUnless(bool done);
  absl::Duration StopBound() const;
  bool StopsInTime(const GuestRings& rings, DeviceThread::Job job);

  const std::string path_;
  const VhostVdpaBounds bounds_;
  const std::shared_ptr<Condition> condition_;
  DeviceThread thread_;
  std::shared_ptr<VhostVdpaSession> session_;  // used on the thread alone; nullptr once it is given up
  VhostVdpaInfo info_;
  bool running_ = false;  // it was started, and Stop has not given the positions yet
  std::atomic<bool> suspected_{false};
};

}  // namespace everport
