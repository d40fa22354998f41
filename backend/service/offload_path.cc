#include "backend/service/offload_path.h"

#include <algorithm>
#include <utility>

#include "backend/base/log.h"
#include "backend/service/ring_progress.h"
#include "migration/feature_contract.h"

namespace everport {

// Shared with the worker's jobs and with the guest's stop hook.
struct OffloadPath::Run {
  std::mutex mutex;  // held while the device is told something
  std::shared_ptr<OffloadDevice> device;
  GuestRings rings;
  bool serving = false;
  bool ended = false;     // the rings may have gone
  bool over = false;      // the path has been destroyed, and another may serve the guest; control thread
  RingProgress progress;  // control thread

  absl::Status End() {
    const std::lock_guard lock(mutex);
    return EndLocked();
  }
  // The same, and where the device has come to; empty if that has been taken.
  GuestRings EndAndTakeRings() {
    const std::lock_guard lock(mutex);
    if (absl::Status unclean = EndLocked(); !unclean.ok()) spdlog::warn("{}", std::string(unclean.message()));
    return std::exchange(rings, {});
  }
  absl::Status EndLocked() {
    ended = true;
    return std::exchange(serving, false) ? device->Stop(rings) : absl::OkStatus();
  }
  GuestRings TakeRings() {
    const std::lock_guard lock(mutex);
    return std::exchange(rings, {});
  }
};

OffloadPath::OffloadPath(std::shared_ptr<GuestEndpoint> guest, std::shared_ptr<OffloadDevice> device,
                         DeviceWorker& worker)
    : guest_(std::move(guest)), run_(std::make_shared<Run>()), worker_(worker) {
  run_->device = std::move(device);
}

OffloadPath::~OffloadPath() {
  const bool ours = guest_->ClearOffload();
  if (absl::Status status = run_->End(); !status.ok()) spdlog::warn("{}", std::string(status.message()));
  run_->over = true;
  if (ours) guest_->SetServedByDevice(false);
}

void OffloadPath::Start(std::function<void(absl::Status)> done) {
  guest_->ArmWake();  // a poller may have told the guest not to kick; the device says for itself
  guest_->SetServedByDevice(true);
  absl::StatusOr<GuestRings> rings = guest_->Rings();
  absl::Status status = rings.status();
  if (status.ok()) {
    run_->rings = std::move(*rings);
    const auto stop = [run = run_](bool hurry) {
      if (hurry) run->device->Suspect();
      return run->EndAndTakeRings();
    };
    const bool there = guest_->SetOffload(stop, run_->device->LogsDirtyPages());
    if (!there) status = absl::CancelledError("the guest's device has just stopped, or is being migrated");
  }
  if (!status.ok()) guest_->SetServedByDevice(false);
  worker_.Run<absl::Status>(
      [run = run_, status] {
        const std::lock_guard lock(run->mutex);
        if (!status.ok()) return status;
        if (run->ended) return absl::Status(absl::CancelledError("the guest's device has stopped meanwhile"));
        absl::Status started = run->device->Start(run->rings);
        run->serving = started.ok();
        return started;
      },
      [guest = guest_, run = run_, done = std::move(done)](absl::Status started) {
        if (!started.ok() && !run->over && guest->ClearOffload()) guest->SetServedByDevice(false);
        done(std::move(started));
      });
}

void OffloadPath::Stop(std::function<void(absl::Status)> done) {
  worker_.Run<absl::Status>([run = run_] { return run->End(); },
                            [guest = guest_, run = run_, done = std::move(done)](absl::Status stopped) {
                              if (!run->over && guest->ClearOffload()) {  // else the hook has the rings
                                guest->SetPositions(run->TakeRings());
                                guest->SetServedByDevice(false);
                              }
                              guest->CallAll();
                              done(std::move(stopped));
                            });
}

bool OffloadPath::TakeChanges() {
  const std::unique_lock lock(run_->mutex, std::try_to_lock);
  if (!lock) return true;  // under way: looked at again when that has ended
  if (run_->ended && guest_->logging() && !run_->device->LogsDirtyPages()) return true;  // another uplink is due
  if (run_->ended) return false;  // the guest's device has gone and come again: it is to be started anew
  if (!run_->serving) return true;
  absl::StatusOr<GuestRings> now = guest_->Rings();
  const uint64_t changed = now.ok() ? now->features ^ run_->rings.features : 0;
  if (!now.ok() || (changed & ~(uint64_t{1} << kVhostLogAll)) != 0 || now->rings.size() != run_->rings.rings.size())
    return false;
  const auto same = [](const GuestRings::Ring& a, const GuestRings::Ring& b) {
    return a.enabled == b.enabled && a.size == b.size && a.desc == b.desc && a.avail == b.avail && a.used == b.used;
  };
  // librte_vhost takes a ring's addresses away for the moment in which it is told the same ones again (a migration's
  // begin and end); it tells when it has them. A ring that has gone for good takes the guest's device with it.
  const auto away = [](const GuestRings::Ring& a, const GuestRings::Ring& b) { return a.size == 0 && b.size != 0; };
  for (size_t i = 0; i < now->rings.size(); ++i)
    if (away(now->rings[i], run_->rings.rings[i])) return true;
  if (!std::equal(now->rings.begin(), now->rings.end(), run_->rings.rings.begin(), same)) return false;
  for (size_t i = 0; i < now->rings.size(); ++i) {
    run_->rings.rings[i].kick = std::move(now->rings[i].kick);
    run_->rings.rings[i].call = std::move(now->rings[i].call);
  }
  return run_->device->SetNotifiers(run_->rings).ok();
}

void OffloadPath::Suspect() {
  run_->device->Suspect();
}

uint64_t OffloadPath::StalledMs(absl::Time now) {
  const std::unique_lock lock(run_->mutex, std::try_to_lock);
  if (!lock || !run_->serving || run_->ended) return 0;
  return run_->progress.StalledMs(run_->rings, now);
}

}  // namespace everport
