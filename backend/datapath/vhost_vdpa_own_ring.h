#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "backend/base/unique_fd.h"

namespace everport {

// A virtqueue of our own, in shared file-backed memory, the only kind that VDUSE maps: the control virtqueue
// (virtio 1.2, 5.1.6.5), for commands that the guest gives to QEMU and the device must hear from us; a transmit queue,
// for a frame of ours while no guest is on the device; or an empty ring, which stands in for any number of those that
// the guest has not. Split. One command or frame at a time; one thread.
class OwnRing {
 public:
  // Its memory; fresh, so that both indices are 0.
  static absl::StatusOr<std::unique_ptr<OwnRing>> Make(uint16_t max_ring_size);
  ~OwnRing();
  OwnRing(const OwnRing&) = delete;
  OwnRing& operator=(const OwnRing&) = delete;

  void* address() const { return map_; }
  static constexpr size_t kBytes = 4 * 4096;
  uint16_t size() const { return size_; }
  // Where the device finds it: map kBytes at this IOVA.
  void set_iova(uint64_t iova) { iova_ = iova; }
  uint64_t iova() const { return iova_; }
  uint64_t desc_iova() const { return iova_ + kDesc; }
  uint64_t avail_iova() const { return iova_ + kAvail; }
  uint64_t used_iova() const { return iova_ + kUsed; }
  int kick_fd() const { return kick_.get(); }
  int call_fd() const { return call_.get(); }

  // VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET. DeadlineExceeded: no answer in time; FailedPrecondition: the device said no.
  // Neither names the device.
  absl::Status SetQueuePairs(uint16_t pairs, absl::Duration bound);
  // Sends a frame, of 2 KiB at most, that asks the device for nothing. DeadlineExceeded: it was not taken in time.
  absl::Status Send(std::span<const uint8_t> frame, absl::Duration bound);

 private:
  static constexpr size_t kDesc = 0, kAvail = 4096, kUsed = 2 * 4096, kCommand = 3 * 4096;
  OwnRing(uint16_t size, UniqueFd kick, UniqueFd call) : size_(size), kick_(std::move(kick)), call_(std::move(call)) {}
  std::atomic_ref<uint16_t> U16(size_t offset);
  // Makes the chain at descriptor 0 available and waits until it is used; whether it was in time.
  bool Do(absl::Duration bound);

  const uint16_t size_;
  const UniqueFd kick_, call_;
  uint8_t* map_ = nullptr;
  uint64_t iova_ = 0;
  uint16_t next_ = 0;
};

}  // namespace everport
