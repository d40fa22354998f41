#include "backend/datapath/vhost_vdpa_session.h"

#define VIRTIO_RING_NO_LEGACY  // what it leaves out is not C++
#include <linux/vhost.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "backend/datapath/vhost_vdpa_errors.h"
#include "backend/datapath/virtio_net_abi.h"
#include "migration/feature_contract.h"

namespace everport {
namespace {

// linux/vhost_types.h; Debian 12's lacks the later ones.
constexpr uint64_t Bit(unsigned bit) {
  return uint64_t{1} << bit;
}
constexpr uint64_t kIotlbMsgV2 = Bit(1), kIotlbBatch = Bit(2), kSuspend = Bit(4), kResume = Bit(5),
                   kEnableAfterDriverOk = Bit(6), kIotlbPersist = Bit(8);

constexpr uint64_t kPage = 4096;
constexpr absl::Duration kControlBound = absl::Seconds(1);
constexpr uint32_t kAnnouncingRing = 1;  // transmitq1
// The guest is served by another path meanwhile. A device that is a process may be without CPU for a while.
constexpr absl::Duration kAnnouncingBound = absl::Milliseconds(100);

}  // namespace

absl::StatusOr<uint64_t> FindFreeIova(const std::vector<VhostVdpaPlan::Region>& regions, uint64_t first, uint64_t last,
                                      uint64_t bytes) {
  std::vector<uint64_t> starts = {first};
  for (const auto& region : regions) starts.push_back(region.iova + region.size);
  std::sort(starts.rbegin(), starts.rend());  // above the guest's memory if there is room
  for (uint64_t start : starts) {
    start = (std::max(start, first) + kPage - 1) & ~(kPage - 1);
    if (start > last || last - start < bytes - 1) continue;
    const auto overlaps = [&](const VhostVdpaPlan::Region& region) {
      return region.iova < start + bytes && start < region.iova + region.size;
    };
    if (std::none_of(regions.begin(), regions.end(), overlaps)) return start;
  }
  return absl::ResourceExhaustedError("no room for a ring of our own beside the guest's memory");
}

VhostVdpaSession::VhostVdpaSession(std::string path, std::shared_ptr<VhostVdpaKernel> kernel, int fd)
    : path_(std::move(path)),
      kernel_(std::move(kernel)),
      fd_(fd),
      config_call_(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)),
      watch_(std::max(-1, kernel_->Watch(path_))) {}

VhostVdpaSession::~VhostVdpaSession() {
  kernel_->Close(fd_);
}

std::vector<int> VhostVdpaSession::watch_fds() const {
  std::vector<int> fds = {config_call_.get()};
  if (watch_.valid()) fds.push_back(watch_.get());
  return fds;
}

absl::Status VhostVdpaSession::Ioctl(unsigned long request, void* argument, const char* what) {
  const int result = kernel_->Ioctl(fd_, request, argument);
  if (result >= 0) return absl::OkStatus();
  if (result == -ENODEV) {
    failure_ = Trouble::kRemoved;
  } else if (result == -EIO) {
    failure_ = Trouble::kError;  // VDUSE: its process did not answer once, and is not asked again
  }
  return absl::ErrnoToStatus(-result, absl::StrCat(path_, ": ", what));
}

// ---- Opening

absl::Status VhostVdpaSession::Identify() {
  uint32_t id = 0;
  const int result = kernel_->Ioctl(fd_, VHOST_VDPA_GET_DEVICE_ID, &id);
  if (result < 0)
    return absl::FailedPreconditionError(
        absl::StrCat(path_, " is not a vhost-vdpa device: ", std::strerror(-result), "; name a /dev/vhost-vdpa-N"));
  if (id != virtio_net::kDeviceNet)
    return absl::FailedPreconditionError(
        absl::StrCat(path_, " is a virtio device of type ", id, id == virtio_net::kDeviceBlock ? " (block)" : "",
                     ", not a network device; `vdpa dev show` lists what each device is"));
  return absl::OkStatus();
}

absl::Status VhostVdpaSession::NegotiateBackend() {
  uint64_t offered = 0;
  if (absl::Status s = Ioctl(VHOST_GET_BACKEND_FEATURES, &offered, "reading its back-end features"); !s.ok()) return s;
  if (!(offered & kIotlbMsgV2))
    return absl::FailedPreconditionError(
        absl::StrCat(path_, ": its driver does not take memory maps by messages; a newer kernel does"));
  info_.backend_features =
      offered & (kIotlbMsgV2 | kIotlbBatch | kSuspend | kResume | kEnableAfterDriverOk | kIotlbPersist);
  if (absl::Status s = Ioctl(VHOST_SET_BACKEND_FEATURES, &info_.backend_features, "setting its back-end features");
      !s.ok())
    return s;
  return Ioctl(VHOST_SET_OWNER, nullptr, "becoming its owner");
}

absl::Status VhostVdpaSession::ReadConfig(uint32_t offset, void* to, uint32_t bytes) {
  struct {
    uint32_t off, len;  // struct vhost_vdpa_config
    uint8_t buf[16];
  } config{offset, bytes, {}};
  if (absl::Status s = Ioctl(VHOST_VDPA_GET_CONFIG, &config, "reading its configuration"); !s.ok()) return s;
  std::memcpy(to, config.buf, bytes);
  return absl::OkStatus();
}

absl::Status VhostVdpaSession::ReadQueueLimits() {
  if (absl::Status s = Ioctl(VHOST_VDPA_GET_VRING_NUM, &info_.max_ring_size, "reading its ring size"); !s.ok())
    return s;
  const bool control = info_.Offers(kNetCtrlVq);
  uint16_t pairs = 1;
  if (info_.Offers(kNetMq)) {
    if (absl::Status s = ReadConfig(virtio_net::kConfigMaxVirtqueuePairs, &pairs, sizeof pairs); !s.ok()) return s;
  }
  // Kernels before 5.19 do not know the request: then the configuration must be enough.
  if (kernel_->Ioctl(fd_, VHOST_VDPA_GET_VQS_COUNT, &info_.queues) < 0) info_.queues = 2 * pairs + (control ? 1 : 0);
  const auto data_pairs = static_cast<uint16_t>((info_.queues - (control && info_.queues % 2 ? 1 : 0)) / 2);
  // A device without a control queue cannot be told how many pairs to use (MQ wants CTRL_VQ, virtio 1.2, 5.1.3.1): it
  // goes by which rings are enabled. VDUSE's are such: the kernel refuses CTRL_VQ there.
  info_.max_queue_pairs = control ? std::min(pairs, data_pairs) : data_pairs;
  if (info_.max_queue_pairs == 0)
    return absl::FailedPreconditionError(
        absl::StrCat(path_, ": it has ", info_.queues, " queues, and one pair of queues is the least"));
  return absl::OkStatus();
}

absl::StatusOr<std::shared_ptr<VhostVdpaSession>> VhostVdpaSession::Open(std::string path,
                                                                         std::shared_ptr<VhostVdpaKernel> kernel) {
  const int fd = kernel->Open(path);
  if (fd < 0) return ExplainVhostVdpaOpenError(path, -fd);
  std::shared_ptr<VhostVdpaSession> session(new VhostVdpaSession(std::move(path), std::move(kernel), fd));
  VhostVdpaInfo& info = session->info_;
  absl::Status status = session->Identify();
  if (status.ok()) status = session->NegotiateBackend();
  if (status.ok()) status = session->Ioctl(VHOST_GET_FEATURES, &info.features, "reading its features");
  if (status.ok()) status = session->ReadQueueLimits();
  if (status.ok() && info.Offers(virtio_net::kMac)) {
    info.mac.emplace();
    status = session->ReadConfig(virtio_net::kConfigMac, info.mac->data(), 6);
  }
  if (!status.ok()) return status;
  vhost_vdpa_iova_range range{};
  if (session->kernel_->Ioctl(fd, VHOST_VDPA_GET_IOVA_RANGE, &range) >= 0) {
    info.first_iova = range.first;
    info.last_iova = range.last;
  }
  return session;
}

// ---- Memory

absl::Status VhostVdpaSession::Iotlb(uint8_t type, uint64_t iova, uint64_t size, void* address) {
  vhost_msg_v2 message{};
  message.type = VHOST_IOTLB_MSG_V2;
  message.iotlb.type = type;
  message.iotlb.iova = iova;
  message.iotlb.size = size;
  message.iotlb.uaddr = reinterpret_cast<uint64_t>(address);
  message.iotlb.perm = VHOST_ACCESS_RW;
  const int result = kernel_->Write(fd_, &message, sizeof message);
  if (result >= 0) return absl::OkStatus();
  const std::string what = absl::StrFormat("%s: memory at 0x%x, %d bytes", path_, iova, size);
  if (result == -ENOMEM)
    return absl::ResourceExhaustedError(
        absl::StrCat(what, ": the device pins the guest's memory, more than the daemon may lock; raise LimitMEMLOCK"));
  return absl::ErrnoToStatus(-result, what);
}

absl::Status VhostVdpaSession::Map(const std::vector<VhostVdpaPlan::Region>& regions) {
  for (const auto& region : regions) {
    const bool aligned = (region.iova | region.size | reinterpret_cast<uint64_t>(region.address)) % kPage == 0;
    if (!aligned || region.size == 0 || region.iova < info_.first_iova ||
        region.iova + (region.size - 1) > info_.last_iova)
      return absl::FailedPreconditionError(
          absl::StrFormat("%s: the guest's memory at 0x%x, %d bytes, is not made of pages or lies outside of what the "
                          "device reaches, 0x%x to 0x%x",
                          path_, region.iova, region.size, info_.first_iova, info_.last_iova));
  }
  const bool batch = info_.backend_features & kIotlbBatch;  // the device hears of it once
  absl::Status status;
  if (batch) status = Iotlb(VHOST_IOTLB_BATCH_BEGIN, 0, 0, nullptr);
  for (const auto& region : regions) {
    if (!status.ok()) break;
    status = Iotlb(VHOST_IOTLB_UPDATE, region.iova, region.size, region.address);
    if (status.ok()) mapped_.push_back(region);
  }
  if (batch) status.Update(Iotlb(VHOST_IOTLB_BATCH_END, 0, 0, nullptr));
  return status;
}

absl::Status VhostVdpaSession::Unmap() {
  if (mapped_.empty()) return absl::OkStatus();
  const bool batch = info_.backend_features & kIotlbBatch;
  absl::Status status;
  if (batch) status = Iotlb(VHOST_IOTLB_BATCH_BEGIN, 0, 0, nullptr);
  for (const auto& region : mapped_) status.Update(Iotlb(VHOST_IOTLB_INVALIDATE, region.iova, region.size, nullptr));
  if (batch) status.Update(Iotlb(VHOST_IOTLB_BATCH_END, 0, 0, nullptr));
  mapped_.clear();
  return status;
}

// ---- Starting

absl::Status VhostVdpaSession::SetStatus(uint8_t status) {
  return Ioctl(VHOST_VDPA_SET_STATUS, &status, status == 0 ? "resetting it" : "setting its status");
}

absl::Status VhostVdpaSession::AddStatus(uint8_t bits) {
  uint8_t status = 0;
  if (absl::Status s = Ioctl(VHOST_VDPA_GET_STATUS, &status, "reading its status"); !s.ok()) return s;
  status |= bits;
  if (absl::Status s = SetStatus(status); !s.ok()) return s;
  uint8_t now = 0;
  if (absl::Status s = Ioctl(VHOST_VDPA_GET_STATUS, &now, "reading its status"); !s.ok()) return s;
  if ((now & bits) == bits && !(now & (virtio_net::kFailed | virtio_net::kNeedsReset))) return absl::OkStatus();
  const bool features = bits == virtio_net::kFeaturesOk;
  return absl::FailedPreconditionError(absl::StrFormat(
      "%s: the device %s: its status is 0x%02x, not 0x%02x", path_,
      features ? "refuses the features" : "does not start, or its process does not answer", now, status));
}

absl::Status VhostVdpaSession::SetRingFd(unsigned long request, uint32_t ring, int fd, const char* what) {
  vhost_vring_file file{ring, fd};
  return Ioctl(request, &file, what);
}

absl::Status VhostVdpaSession::EnableRing(uint32_t ring) {
  vhost_vring_state enable{ring, 1};
  return Ioctl(VHOST_VDPA_SET_VRING_ENABLE, &enable, "enabling a ring");
}

absl::Status VhostVdpaSession::SetUpRing(const VhostVdpaPlan::Ring& ring) {
  vhost_vring_state num{ring.index, ring.size}, base{ring.index, ring.base};
  vhost_vring_addr addr{};
  addr.index = ring.index;
  addr.desc_user_addr = ring.desc;
  addr.avail_user_addr = ring.avail;
  addr.used_user_addr = ring.used;
  absl::Status status = Ioctl(VHOST_SET_VRING_NUM, &num, "setting a ring's size");
  if (status.ok()) status = Ioctl(VHOST_SET_VRING_BASE, &base, "setting a ring's position");
  if (status.ok()) status = Ioctl(VHOST_SET_VRING_ADDR, &addr, "setting a ring's addresses");
  if (status.ok()) status = SetRingFd(VHOST_SET_VRING_CALL, ring.index, ring.call.get(), "setting a ring's call");
  if (status.ok()) status = SetRingFd(VHOST_SET_VRING_KICK, ring.index, ring.kick.get(), "setting a ring's kick");
  return status;
}

// One ring in memory of our own, beside the guest's, that the device finds at all of these indices.
absl::Status VhostVdpaSession::AddOwnRing(VhostVdpaPlan& plan, std::unique_ptr<OwnRing>& own,
                                          const std::vector<uint32_t>& indices) {
  absl::StatusOr<std::unique_ptr<OwnRing>> made = OwnRing::Make(info_.max_ring_size);
  if (!made.ok()) return made.status();
  const absl::StatusOr<uint64_t> iova = FindFreeIova(plan.regions, info_.first_iova, info_.last_iova, OwnRing::kBytes);
  if (!iova.ok()) return absl::Status(iova.status().code(), absl::StrCat(path_, ": ", iova.status().message()));
  own = std::move(*made);
  own->set_iova(*iova);
  plan.regions.push_back({*iova, OwnRing::kBytes, own->address()});
  for (const uint32_t index : indices) {
    VhostVdpaPlan::Ring ring;
    ring.index = index;
    ring.size = own->size();
    ring.desc = own->desc_iova();
    ring.avail = own->avail_iova();
    ring.used = own->used_iova();
    ring.kick = UniqueFd(::dup(own->kick_fd()));
    ring.call = UniqueFd(::dup(own->call_fd()));
    ring.own = true;
    plan.rings.push_back(std::move(ring));
  }
  return absl::OkStatus();
}

absl::Status VhostVdpaSession::SetUpOwnRings(VhostVdpaPlan& plan) {
  std::vector<uint32_t> indices = plan.empty_rings;
  if (plan.control_queue) indices = {2u * info_.max_queue_pairs};  // virtio 1.2, 5.1.2, with MQ
  absl::Status status = AddOwnRing(plan, own_, indices);
  if (status.ok() && plan.announcing) status = AddOwnRing(plan, announcer_, {kAnnouncingRing});
  return status;
}

absl::Status VhostVdpaSession::BringUp(VhostVdpaPlan& plan, const std::atomic<bool>& given_up) {
  absl::Status status = SetStatus(0);
  const auto step = [&](auto&& what) {
    if (status.ok() && given_up) status = absl::CancelledError(absl::StrCat(path_, ": given up"));
    if (status.ok()) status = what();
  };
  if (plan.control_queue || !plan.empty_rings.empty()) step([&] { return SetUpOwnRings(plan); });
  step([&] { return Map(plan.regions); });
  step([&] { return AddStatus(virtio_net::kAcknowledge); });
  step([&] { return AddStatus(virtio_net::kDriver); });
  step([&] { return Ioctl(VHOST_SET_FEATURES, &plan.features, "setting its features"); });
  step([&] { return AddStatus(virtio_net::kFeaturesOk); });
  for (const auto& ring : plan.rings) step([&] { return SetUpRing(ring); });
  int config_call = config_call_.get();
  step([&] { return Ioctl(VHOST_VDPA_SET_CONFIG_CALL, &config_call, "setting its configuration interrupt"); });
  // All before DRIVER_OK: later is only for devices that say ENABLE_AFTER_DRIVER_OK.
  for (const auto& ring : plan.rings) step([&] { return EnableRing(ring.index); });
  step([&] { return AddStatus(virtio_net::kDriverOk); });
  if (plan.control_queue) {
    step([&] {
      absl::Status set = own_->SetQueuePairs(plan.queue_pairs, kControlBound);
      return set.ok() ? set : absl::Status(set.code(), absl::StrCat(path_, ": ", set.message()));
    });
  }
  return status;
}

absl::Status VhostVdpaSession::Announce(std::span<const uint8_t> frame, const std::atomic<bool>& given_up) {
  if (running_) return absl::FailedPreconditionError(absl::StrCat(path_, ": a guest is on it"));
  VhostVdpaPlan plan;
  plan.features = info_.features & (Bit(kVersion1) | Bit(virtio_net::kAccessPlatform) | Bit(virtio_net::kStatus));
  plan.announcing = true;
  // Without a control queue a device goes by which rings are enabled: it may not start before all are.
  for (uint32_t i = 0; i < (info_.Offers(kNetCtrlVq) ? 2 : info_.queues); ++i) {
    if (i != kAnnouncingRing) plan.empty_rings.push_back(i);
  }
  absl::Status status = BringUp(plan, given_up);
  if (status.ok()) {
    for (const auto& ring : plan.rings) ::eventfd_write(ring.kick.get(), 1);
    status = announcer_->Send(frame, kAnnouncingBound);
    if (!status.ok()) status = absl::Status(status.code(), absl::StrCat(path_, ": ", status.message()));
  }
  std::vector<uint32_t> rings;
  for (const auto& ring : plan.rings) rings.push_back(ring.index);
  status.Update(LetGo(rings));
  own_.reset();
  announcer_.reset();
  return status;
}

absl::Status VhostVdpaSession::Start(VhostVdpaPlan plan, const std::atomic<bool>& given_up) {
  if (running_) return absl::FailedPreconditionError(absl::StrCat(path_, ": it is running already"));
  if (absl::Status status = BringUp(plan, given_up); !status.ok()) {
    std::vector<uint32_t> rings;
    for (const auto& ring : plan.rings) rings.push_back(ring.index);
    LetGo(rings).IgnoreError();
    own_.reset();
    return status;
  }
  rings_ = std::move(plan.rings);
  running_ = true;
  // What the guest kicked for while nobody had its rings. One call each, too: what was used last by another path may
  // not have been called for yet.
  for (const auto& ring : rings_) {
    ::eventfd_write(ring.kick.get(), 1);
    if (ring.call.valid()) ::eventfd_write(ring.call.get(), 1);
  }
  return absl::OkStatus();
}

absl::Status VhostVdpaSession::SetNotifier(uint32_t ring, UniqueFd kick, UniqueFd call) {
  const auto at = std::find_if(rings_.begin(), rings_.end(), [&](const auto& r) { return r.index == ring; });
  if (at == rings_.end()) return absl::OkStatus();
  absl::Status status = SetRingFd(VHOST_SET_VRING_CALL, ring, call.get(), "setting a ring's call");
  if (status.ok()) status = SetRingFd(VHOST_SET_VRING_KICK, ring, kick.get(), "setting a ring's kick");
  if (!status.ok()) return status;
  at->kick = std::move(kick);
  at->call = std::move(call);
  ::eventfd_write(at->kick.get(), 1);
  if (at->call.valid()) ::eventfd_write(at->call.get(), 1);
  return absl::OkStatus();
}

// ---- Stopping

absl::Status VhostVdpaSession::LetGo(const std::vector<uint32_t>& rings) {
  absl::Status status = SetStatus(0);
  for (const uint32_t ring : rings) {
    status.Update(SetRingFd(VHOST_SET_VRING_KICK, ring, VHOST_FILE_UNBIND, "taking a ring's kick away"));
    status.Update(SetRingFd(VHOST_SET_VRING_CALL, ring, VHOST_FILE_UNBIND, "taking a ring's call away"));
  }
  // Last: VDUSE's process may confirm the reset before it has stopped; it takes the next message when it has
  // (librte_vhost handles one after the other, on one thread), and this one says that no mapping is left.
  status.Update(Unmap());
  return status;
}

VhostVdpaSession::Stopped VhostVdpaSession::Stop() {
  Stopped stopped;
  if (!std::exchange(running_, false)) return stopped;
  if (info_.backend_features & kSuspend) {
    stopped.status = Ioctl(VHOST_VDPA_SUSPEND, nullptr, "suspending it");
    stopped.suspended = stopped.status.ok();
  }
  std::vector<uint32_t> indices;
  for (const auto& ring : std::exchange(rings_, {})) {
    indices.push_back(ring.index);
    if (ring.own) continue;
    vhost_vring_state base{ring.index, 0};
    const absl::Status read = Ioctl(VHOST_GET_VRING_BASE, &base, "reading a ring's position");
    stopped.status.Update(read);
    stopped.rings.push_back({ring.index, read.ok() ? std::optional(static_cast<uint16_t>(base.num)) : std::nullopt});
  }
  stopped.status.Update(LetGo(indices));
  own_.reset();
  return stopped;
}

// ---- Watching

Trouble VhostVdpaSession::Look() {
  eventfd_t count;
  ::eventfd_read(config_call_.get(), &count);
  char events[4096];
  while (watch_.valid() && ::read(watch_.get(), events, sizeof events) > 0) {
  }
  if (failure_ != Trouble::kNone) return failure_;
  if (!kernel_->Present(fd_)) return failure_ = Trouble::kRemoved;
  uint8_t status = 0;
  if (!Ioctl(VHOST_VDPA_GET_STATUS, &status, "reading its status").ok())
    return failure_ != Trouble::kNone ? failure_ : Trouble::kError;
  // Without DRIVER_OK somebody else has reset it.
  if (running_ && ((status & virtio_net::kNeedsReset) || !(status & virtio_net::kDriverOk)))
    return Trouble::kNeedsReset;
  if (info_.Offers(virtio_net::kStatus)) {
    uint16_t link = 0;
    if (!ReadConfig(virtio_net::kConfigStatus, &link, sizeof link).ok())
      return failure_ != Trouble::kNone ? failure_ : Trouble::kError;
    if (!(link & virtio_net::kLinkUp)) return Trouble::kLinkDown;
  }
  return Trouble::kNone;
}

}  // namespace everport
