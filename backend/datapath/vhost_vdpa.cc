#include "backend/datapath/vhost_vdpa.h"

#include <sys/eventfd.h>

#include <algorithm>
#include <utility>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/time/clock.h"
#include "backend/datapath/virtio_net_abi.h"
#include "migration/feature_contract.h"

namespace everport {
namespace {

constexpr uint64_t Mask(std::initializer_list<unsigned> bits) {
  uint64_t mask = 0;
  for (const unsigned bit : bits) mask |= uint64_t{1} << bit;
  return mask;
}

// What QEMU does for the guest, or what goes between QEMU and us: nothing that the rings' other end must know of. MQ is
// among them: what counts is the number of rings. All other bits, unknown ones too, must be the device's as well.
constexpr uint64_t kNotTheDevices =
    Mask({kNetMtu, virtio_net::kMac, virtio_net::kStatus, kNetCtrlVq, kNetCtrlRx, virtio_net::kCtrlVlan,
          virtio_net::kCtrlRxExtra, kNetGuestAnnounce, kNetMq, virtio_net::kCtrlMacAddr, virtio_net::kNotifyOnEmpty,
          kVhostLogAll, kAnyLayout, kVhostUserProtocolFeatures, virtio_net::kAccessPlatform, virtio_net::kStandby,
          virtio_net::kSpeedDuplex});
constexpr uint64_t kPacked = Mask({kRingPacked});
constexpr uint64_t kPerPinning = uint64_t{4} << 30;

uint16_t QueuePairs(const GuestRings& rings) {
  size_t pairs = 1;
  for (size_t i = 0; i < rings.rings.size(); ++i) {
    if (rings.rings[i].enabled) pairs = std::max(pairs, i / 2 + 1);
  }
  return static_cast<uint16_t>(pairs);
}

uint16_t LargestRing(const GuestRings& rings) {
  uint16_t size = 0;
  for (const auto& ring : rings.rings) size = std::max(size, ring.enabled ? ring.size : uint16_t{0});
  return size;
}

uint16_t UsedIndex(const GuestRings::Ring& ring) {
  return __atomic_load_n(ring.used_idx, __ATOMIC_ACQUIRE);
}

std::vector<uint16_t> UsedIndices(const GuestRings& rings) {
  std::vector<uint16_t> used;
  for (const auto& ring : rings.rings) used.push_back(ring.enabled && ring.used_idx ? UsedIndex(ring) : uint16_t{0});
  return used;
}

absl::StatusOr<std::pair<UniqueFd, UniqueFd>> Notifiers(const std::string& path, const GuestRings::Ring& ring) {
  // A guest that does not kick still needs the first one.
  UniqueFd kick = ring.kick.valid() ? ring.kick.Dup() : UniqueFd(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  UniqueFd call = ring.call.Dup();
  if (!kick.valid() || call.valid() != ring.call.valid())
    return absl::ResourceExhaustedError(
        absl::StrCat(path, ": the daemon is out of file descriptors; raise LimitNOFILE"));
  return std::pair(std::move(kick), std::move(call));
}

}  // namespace

void VhostVdpaDevice::Condition::Set(Trouble now) {
  const std::lock_guard lock(mutex);
  if (given_up) now = Trouble::kError;
  if (trouble.exchange(now, std::memory_order_acq_rel) != now) ::eventfd_write(changed.get(), 1);
}

void VhostVdpaDevice::Condition::GiveUp() {
  given_up = true;
  Set(Trouble::kError);
}

VhostVdpaDevice::VhostVdpaDevice(std::string path, const VhostVdpaBounds& bounds)
    : path_(std::move(path)), bounds_(bounds), condition_(std::make_shared<Condition>()) {
  condition_->changed.reset(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
}

VhostVdpaDevice::~VhostVdpaDevice() {
  if (!session_) return;
  thread_.Run(
      [session = std::move(session_), core = thread_.core()]() mutable {
        DeviceThread::SetWatch(*core, {});
        session->Stop().status.IgnoreError();
        session.reset();
      },
      StopBound());
}

// Whether the device has answered; if not, from now on it is the lost thread's.
bool VhostVdpaDevice::GiveUpUnless(bool done) {
  if (done) return true;
  condition_->GiveUp();
  session_.reset();  // the thread holds it, too, in the job that it has not finished, and closes it
  return false;
}

// ---- Opening

absl::StatusOr<std::unique_ptr<VhostVdpaDevice>> VhostVdpaDevice::Open(const std::string& path,
                                                                       std::shared_ptr<VhostVdpaKernel> kernel,
                                                                       const VhostVdpaBounds& bounds) {
  std::unique_ptr<VhostVdpaDevice> device(new VhostVdpaDevice(path, bounds));
  if (absl::Status status = device->OpenSession(std::move(kernel)); !status.ok()) return status;
  return device;
}

absl::Status VhostVdpaDevice::OpenSession(std::shared_ptr<VhostVdpaKernel> kernel) {
  struct Result {
    absl::Status status;
    std::shared_ptr<VhostVdpaSession> session;
    VhostVdpaInfo info;
  };
  const auto result = std::make_shared<Result>();
  const bool done = thread_.Run(
      [result, path = path_, kernel = std::move(kernel), condition = condition_, core = thread_.core(),
       period = bounds_.look_every]() mutable {
        auto session = VhostVdpaSession::Open(path, std::move(kernel));
        result->status = session.status();
        if (!session.ok()) return;
        if (condition->given_up) return;  // closes it
        result->info = (*session)->info();
        condition->Set((*session)->Look());
        // The watch does not hold the session: it must not be what keeps the node open.
        DeviceThread::SetWatch(*core, {.look =
                                           [weak = std::weak_ptr(*session), condition] {
                                             if (const auto s = weak.lock()) condition->Set(s->Look());
                                           },
                                       .fds = (*session)->watch_fds(),
                                       .period = period});
        result->session = *std::move(session);
      },
      bounds_.open);
  if (!GiveUpUnless(done))
    return absl::DeadlineExceededError(absl::StrCat(
        path_, ": no answer within ", absl::FormatDuration(bounds_.open),
        "; a VDUSE device whose process does not run? Start it again, or remove the device (vdpa dev del NAME)"));
  session_ = std::move(result->session);
  info_ = result->info;
  return result->status;
}

// ---- What it can do

uint64_t VhostVdpaDevice::Lacks(uint64_t contract_features, uint16_t queue_pairs) const {
  uint64_t lacks = contract_features & ~kNotTheDevices & ~kPacked & ~info_.features;
  if (queue_pairs > info_.max_queue_pairs) lacks |= Mask({kNetMq}) & ~info_.features;
  return lacks;
}

absl::Status VhostVdpaDevice::Covers(uint64_t features, uint16_t queue_pairs, uint16_t ring_size) const {
  std::vector<std::string> faults;
  if (const uint64_t lacks = features & ~kNotTheDevices & ~kPacked & ~info_.features; lacks != 0)
    faults.push_back(absl::StrCat("the device lacks ", absl::StrJoin(FeatureNames(lacks), ", ")));
  if (features & kPacked)
    faults.push_back(
        "the guest uses packed rings (VIRTIO_F_RING_PACKED), whose position would be lost with the daemon");
  if (!(features & Mask({kVersion1}))) faults.push_back("the guest's driver is a legacy one (no VIRTIO_F_VERSION_1)");
  if (queue_pairs > info_.max_queue_pairs)
    faults.push_back(
        absl::StrCat("the device has ", info_.max_queue_pairs, " queue pairs and the guest uses ", queue_pairs));
  if (queue_pairs < info_.max_queue_pairs && !info_.Offers(kNetCtrlVq))
    faults.push_back(absl::StrCat("the device has ", info_.max_queue_pairs,
                                  " queue pairs and no control queue to hear that the guest uses ", queue_pairs,
                                  "; make it with as many as the guest uses"));
  if (ring_size > info_.max_ring_size)
    faults.push_back(absl::StrCat("the device's rings have at most ", info_.max_ring_size,
                                  " entries and the guest's have ", ring_size));
  if (faults.empty()) return absl::OkStatus();
  return absl::FailedPreconditionError(absl::StrCat(path_, " cannot serve this guest: ", absl::StrJoin(faults, "; ")));
}

// ---- Starting

absl::StatusOr<VhostVdpaPlan> VhostVdpaDevice::MakePlan(const GuestRings& rings) const {
  VhostVdpaPlan plan;
  plan.queue_pairs = QueuePairs(rings);
  if (absl::Status status = Covers(rings.features, plan.queue_pairs, LargestRing(rings)); !status.ok()) return status;
  plan.control_queue = plan.queue_pairs > 1 && info_.Offers(kNetMq) && info_.Offers(kNetCtrlVq);
  uint64_t wanted = (rings.features & ~kNotTheDevices) | Mask({virtio_net::kAccessPlatform, virtio_net::kStatus});
  if (plan.control_queue) wanted |= Mask({kNetMq, kNetCtrlVq});
  plan.features = wanted & info_.features;
  for (const auto& region : rings.regions) plan.regions.push_back({region.gpa, region.size, region.address});
  for (size_t i = 0; i < rings.rings.size(); ++i) {
    const GuestRings::Ring& ring = rings.rings[i];
    if (!ring.enabled) continue;
    auto notifiers = Notifiers(path_, ring);
    if (!notifiers.ok()) return notifiers.status();
    plan.rings.push_back({static_cast<uint32_t>(i), ring.size, ring.avail_base, ring.desc, ring.avail, ring.used,
                          std::move(notifiers->first), std::move(notifiers->second)});
  }
  // librte_vhost's VDUSE devices do not start before all of their rings are enabled, and have one over.
  for (uint32_t i = 0; i < info_.queues && !info_.Offers(kNetCtrlVq); ++i) {
    if (i >= rings.rings.size() || !rings.rings[i].enabled) plan.empty_rings.push_back(i);
  }
  return plan;
}

absl::Status VhostVdpaDevice::Announce(std::span<const uint8_t> frame) {
  if (!session_) return absl::FailedPreconditionError(absl::StrCat(path_, ": it has been given up"));
  const auto result = std::make_shared<absl::Status>();
  const bool done = thread_.Run(
      [result, session = session_, bytes = std::vector<uint8_t>(frame.begin(), frame.end()), condition = condition_] {
        *result = session->Announce(bytes, condition->given_up);
        condition->Set(session->Look());
      },
      bounds_.start);
  if (GiveUpUnless(done)) return *result;
  return absl::DeadlineExceededError(absl::StrCat(path_, ": not started within ", absl::FormatDuration(bounds_.start),
                                                  "; the device does not answer. If it is a VDUSE device, is its ",
                                                  "process alive?"));
}

absl::Status VhostVdpaDevice::Start(const GuestRings& rings) {
  if (!session_) return absl::FailedPreconditionError(absl::StrCat(path_, ": it has been given up"));
  absl::StatusOr<VhostVdpaPlan> plan = MakePlan(rings);
  if (!plan.ok()) return plan.status();
  uint64_t bytes = 0;
  for (const auto& region : rings.regions) bytes += region.size;
  const absl::Duration bound = bounds_.start * static_cast<int64_t>(1 + bytes / kPerPinning);
  const auto result = std::make_shared<absl::Status>();
  // std::function wants what can be copied.
  const auto shared_plan = std::make_shared<VhostVdpaPlan>(*std::move(plan));
  const bool done = thread_.Run(
      [result, session = session_, shared_plan, condition = condition_] {
        *result = session->Start(std::move(*shared_plan), condition->given_up);
        if (condition->given_up) session->Stop().status.IgnoreError();
        condition->Set(session->Look());
      },
      bound);
  if (!GiveUpUnless(done))
    return absl::DeadlineExceededError(
        absl::StrCat(path_, ": not started within ", absl::FormatDuration(bound),
                     "; the device does not answer. If it is a VDUSE device, is its process alive?"));
  running_ = result->ok();
  suspected_ = false;
  return *result;
}

absl::Status VhostVdpaDevice::SetNotifiers(const GuestRings& rings) {
  if (!session_ || !running_) return absl::FailedPreconditionError(absl::StrCat(path_, ": it is not running"));
  struct Work {
    std::vector<VhostVdpaPlan::Ring> rings;
    absl::Status status;
  };
  const auto work = std::make_shared<Work>();
  for (size_t i = 0; i < rings.rings.size(); ++i) {
    if (!rings.rings[i].enabled) continue;
    auto notifiers = Notifiers(path_, rings.rings[i]);
    if (!notifiers.ok()) return notifiers.status();
    VhostVdpaPlan::Ring& ring = work->rings.emplace_back();
    ring.index = static_cast<uint32_t>(i);
    std::tie(ring.kick, ring.call) = std::move(*notifiers);
  }
  const bool done = thread_.Run(
      [work, session = session_] {
        for (auto& ring : work->rings)
          work->status.Update(session->SetNotifier(ring.index, std::move(ring.kick), std::move(ring.call)));
      },
      bounds_.stop);
  if (!GiveUpUnless(done)) {
    return absl::DeadlineExceededError(absl::StrCat(path_, ": does not take the guest's new eventfds in time"));
  }
  return work->status;
}

// ---- Stopping

absl::Duration VhostVdpaDevice::StopBound() const {
  return suspected_ || trouble() != Trouble::kNone ? bounds_.stop_in_trouble : bounds_.stop;
}

bool VhostVdpaDevice::StopsInTime(const GuestRings& rings, DeviceThread::Job job) {
  const std::vector<uint16_t> before = UsedIndices(rings);
  const absl::Duration bound = StopBound();
  if (thread_.Run(std::move(job), bound)) return true;
  // One that writes is not dead, only slow to answer.
  return bound < bounds_.stop && UsedIndices(rings) != before && thread_.WaitFor(bounds_.stop);
}

absl::Status VhostVdpaDevice::Stop(GuestRings& rings) {
  if (!std::exchange(running_, false)) return absl::OkStatus();
  const auto stopped = std::make_shared<VhostVdpaSession::Stopped>();
  bool in_time = false;
  if (session_) {
    in_time = StopsInTime(rings, [stopped, session = session_, condition = condition_] {
      *stopped = session->Stop();
      condition->Set(session->Look());
    });
    if (thread_.lost()) GiveUpUnless(false);
  } else {
    in_time = thread_.WaitFor(bounds_.stop_in_trouble);  // given up before: then the thread closes it, or has
  }
  for (auto& ring : rings.rings) {
    if (!ring.enabled || !ring.used_idx) continue;
    ring.avail_base = ring.used_base = UsedIndex(ring);
    if (ring.call.valid()) ::eventfd_write(ring.call.get(), 1);  // what it had no time to call for
  }
  if (!in_time)
    return absl::DeadlineExceededError(absl::StrCat(
        path_,
        ": the device does not answer and is given up; the rings go on from their used indices. If it is a VDUSE ",
        "device whose process hangs, kill the process: it still reaches the guest's memory"));
  unsigned in_flight = 0;
  for (const auto& ring : stopped->rings) {
    const auto ahead = ring.base ? static_cast<int16_t>(*ring.base - rings.rings[ring.index].used_base) : int16_t{0};
    if (ahead > 0) in_flight += static_cast<unsigned>(ahead);
  }
  if (!stopped->status.ok()) return stopped->status;
  if (in_flight > 0)
    return absl::AbortedError(
        absl::StrCat(path_, ": ", in_flight, " descriptors were in flight and are done again by the next path"));
  return absl::OkStatus();
}

}  // namespace everport
