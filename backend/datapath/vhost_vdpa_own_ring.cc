#include "backend/datapath/vhost_vdpa_own_ring.h"

#include <poll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "backend/datapath/virtio_net_abi.h"

namespace everport {
namespace {

constexpr uint16_t kMostEntries = 64;
constexpr size_t kMostFrame = 2048;
constexpr absl::Duration kLookAgain = absl::Milliseconds(10);  // should the device answer without a call

struct Command {
  virtio_net::ControlHeader header;
  uint16_t pairs;
  uint8_t ack;
};

}  // namespace

absl::StatusOr<std::unique_ptr<OwnRing>> OwnRing::Make(uint16_t max_ring_size) {
  const UniqueFd memory(::memfd_create("everport-own-ring", MFD_CLOEXEC));
  UniqueFd kick(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)), call(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  void* map = MAP_FAILED;
  if (memory.valid() && kick.valid() && call.valid() && ::ftruncate(memory.get(), kBytes) == 0)
    map = ::mmap(nullptr, kBytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, memory.get(), 0);
  if (map == MAP_FAILED)
    return absl::ResourceExhaustedError(
        absl::StrCat("no memory or descriptors for a ring of our own: ", std::strerror(errno)));
  std::unique_ptr<OwnRing> queue(new OwnRing(std::min(max_ring_size, kMostEntries), std::move(kick), std::move(call)));
  queue->map_ = static_cast<uint8_t*>(map);
  return queue;
}

OwnRing::~OwnRing() {
  if (map_) ::munmap(map_, kBytes);
}

std::atomic_ref<uint16_t> OwnRing::U16(size_t offset) {
  return std::atomic_ref<uint16_t>(*reinterpret_cast<uint16_t*>(map_ + offset));
}

bool OwnRing::Do(absl::Duration bound) {
  // avail: flags, idx, ring[size], used_event; used: flags, idx, … (virtio 1.2, 2.7.6 and 2.7.8)
  U16(kAvail + 4 + 2 * size_).store(next_, std::memory_order_relaxed);  // call at the next used entry
  U16(kAvail + 4 + 2 * (next_ % size_)).store(0, std::memory_order_relaxed);
  U16(kAvail + 2).store(++next_, std::memory_order_seq_cst);
  ::eventfd_write(kick_.get(), 1);

  const absl::Time deadline = absl::Now() + bound;
  while (U16(kUsed + 2).load(std::memory_order_acquire) != next_) {
    const absl::Duration left = deadline - absl::Now();
    if (left <= absl::ZeroDuration()) return false;
    pollfd call{call_.get(), POLLIN, 0};
    ::poll(&call, 1, static_cast<int>(absl::ToInt64Milliseconds(std::min(left, kLookAgain))) + 1);
    eventfd_t count;
    ::eventfd_read(call_.get(), &count);
  }
  return true;
}

absl::Status OwnRing::SetQueuePairs(uint16_t pairs, absl::Duration bound) {
  auto* command = reinterpret_cast<Command*>(map_ + kCommand);
  *command = {{virtio_net::kClassMq, virtio_net::kMqVqPairsSet}, pairs, virtio_net::kControlError};
  const uint64_t at = iova_ + kCommand;
  auto* descs = reinterpret_cast<virtio_net::Desc*>(map_ + kDesc);
  descs[0] = {at + offsetof(Command, header), sizeof command->header, virtio_net::kDescNext, 1};
  descs[1] = {at + offsetof(Command, pairs), sizeof command->pairs, virtio_net::kDescNext, 2};
  descs[2] = {at + offsetof(Command, ack), sizeof command->ack, virtio_net::kDescWrite, 0};
  if (!Do(bound))
    return absl::DeadlineExceededError(
        absl::StrCat("no answer on the control queue within ", absl::FormatDuration(bound)));
  if (std::atomic_ref(command->ack).load(std::memory_order_relaxed) != virtio_net::kControlOk)
    return absl::FailedPreconditionError(absl::StrCat("the device refuses ", pairs, " queue pairs"));
  return absl::OkStatus();
}

absl::Status OwnRing::Send(std::span<const uint8_t> frame, absl::Duration bound) {
  if (frame.size() > kMostFrame) return absl::InvalidArgumentError("a frame of ours is too long");
  std::memset(map_ + kCommand, 0, virtio_net::kHeaderBytes);
  std::memcpy(map_ + kCommand + virtio_net::kHeaderBytes, frame.data(), frame.size());
  const auto bytes = static_cast<uint32_t>(virtio_net::kHeaderBytes + frame.size());
  reinterpret_cast<virtio_net::Desc*>(map_ + kDesc)[0] = {iova_ + kCommand, bytes, 0, 0};
  if (Do(bound)) return absl::OkStatus();
  return absl::DeadlineExceededError(absl::StrCat("a frame was not taken within ", absl::FormatDuration(bound)));
}

}  // namespace everport
