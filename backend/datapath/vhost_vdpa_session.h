#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "backend/base/unique_fd.h"
#include "backend/datapath/vhost_vdpa_kernel.h"
#include "backend/datapath/vhost_vdpa_own_ring.h"
#include "failover/health_monitor.h"

namespace everport {

// What a vhost-vdpa device is, as it said when it was opened.
struct VhostVdpaInfo {
  uint64_t features = 0;          // offered
  uint64_t backend_features = 0;  // VHOST_BACKEND_F_* in use
  uint32_t queues = 2;            // virtqueues, a control queue included
  uint16_t max_queue_pairs = 1;
  uint16_t max_ring_size = 0;  // descriptors
  uint64_t first_iova = 0, last_iova = UINT64_MAX;
  std::optional<std::array<uint8_t, 6>> mac;  // where it offers VIRTIO_NET_F_MAC

  bool Offers(unsigned bit) const { return features >> bit & 1; }
};

// All that a device is told at a start; owns its descriptors.
struct VhostVdpaPlan {
  struct Region {
    uint64_t iova = 0, size = 0;  // bytes
    void* address = nullptr;      // of ours; only the kernel looks at it
  };
  struct Ring {
    uint32_t index = 0;
    uint16_t size = 0, base = 0;
    uint64_t desc = 0, avail = 0, used = 0;  // IOVA
    UniqueFd kick, call;
    bool own = false;  // not the guest's
  };
  uint64_t features = 0;     // to be acknowledged
  uint16_t queue_pairs = 1;  // in use
  bool control_queue = false;
  std::vector<uint32_t> empty_rings;  // that the device has and the guest has not; not with control_queue
  bool announcing = false;            // no guest is on it: ring 1 is for frames of ours; with empty_rings
  std::vector<Region> regions;
  std::vector<Ring> rings;
};

// An open /dev/vhost-vdpa-N, on the device thread: what the uAPI wants in which order (linux/vhost.h;
// drivers/vhost/vdpa.c). Calls may block. The destructor closes the node, which resets the device.
class VhostVdpaSession {
 public:
  // Errors name the node, the cause and the mend.
  static absl::StatusOr<std::shared_ptr<VhostVdpaSession>> Open(std::string path,
                                                                std::shared_ptr<VhostVdpaKernel> kernel);
  ~VhostVdpaSession();
  VhostVdpaSession(const VhostVdpaSession&) = delete;
  VhostVdpaSession& operator=(const VhostVdpaSession&) = delete;

  const VhostVdpaInfo& info() const { return info_; }

  // Starts the device for a moment without a guest and sends the frame. Not while it is running; afterwards it is
  // reset.
  absl::Status Announce(std::span<const uint8_t> frame, const std::atomic<bool>& given_up);

  // To DRIVER_OK. Broken off between two steps when `given_up` is set. After an error the device is reset again.
  absl::Status Start(VhostVdpaPlan plan, const std::atomic<bool>& given_up);
  absl::Status SetNotifier(uint32_t ring, UniqueFd kick, UniqueFd call);

  struct Stopped {
    struct Ring {
      uint32_t index = 0;
      std::optional<uint16_t> base;  // next available position by the device's own account; none: it did not say
    };
    std::vector<Ring> rings;
    bool suspended = false;  // before the bases were read, so that they are exact
    absl::Status status;     // the first thing that failed
  };
  // Resets the device and takes the memory away from it.
  Stopped Stop();

  // What is wrong with it now. Cheap: the kernel answers these without the device.
  Trouble Look();
  std::vector<int> watch_fds() const;

 private:
  VhostVdpaSession(std::string path, std::shared_ptr<VhostVdpaKernel> kernel, int fd);

  absl::Status Ioctl(unsigned long request, void* argument, const char* what);
  absl::Status Identify();
  absl::Status NegotiateBackend();
  absl::Status ReadConfig(uint32_t offset, void* to, uint32_t bytes);
  absl::Status ReadQueueLimits();

  absl::Status BringUp(VhostVdpaPlan& plan, const std::atomic<bool>& given_up);
  absl::Status SetStatus(uint8_t status);
  absl::Status AddStatus(uint8_t bits);  // and reads them back
  absl::Status SetUpRing(const VhostVdpaPlan::Ring& ring);
  absl::Status SetUpOwnRings(VhostVdpaPlan& plan);
  absl::Status AddOwnRing(VhostVdpaPlan& plan, std::unique_ptr<OwnRing>& own, const std::vector<uint32_t>& indices);
  absl::Status SetRingFd(unsigned long request, uint32_t ring, int fd, const char* what);
  absl::Status EnableRing(uint32_t ring);
  absl::Status Map(const std::vector<VhostVdpaPlan::Region>& regions);
  absl::Status Unmap();
  absl::Status Iotlb(uint8_t type, uint64_t iova, uint64_t size, void* address);
  absl::Status LetGo(const std::vector<uint32_t>& rings);  // reset, no eventfds, no memory

  const std::string path_;
  const std::shared_ptr<VhostVdpaKernel> kernel_;
  const int fd_;
  const UniqueFd config_call_;
  UniqueFd watch_;
  VhostVdpaInfo info_;

  bool running_ = false;
  Trouble failure_ = Trouble::kNone;  // of a call; stays
  std::vector<VhostVdpaPlan::Ring> rings_;
  std::vector<VhostVdpaPlan::Region> mapped_;
  std::unique_ptr<OwnRing> own_, announcer_;
};

// An IOVA for `bytes` outside of all regions and within the device's range, page aligned.
absl::StatusOr<uint64_t> FindFreeIova(const std::vector<VhostVdpaPlan::Region>& regions, uint64_t first, uint64_t last,
                                      uint64_t bytes);

}  // namespace everport
