#pragma once

#include <functional>
#include <memory>
#include <mutex>
#include <string>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "backend/datapath/guest_endpoint.h"
#include "backend/datapath/offload_device.h"
#include "backend/service/device_worker.h"

namespace everport {

// One run of an offload device on a guest's rings, from Start to its end: by Stop, or by the guest's device going away,
// whichever comes first. No poller may use the rings meanwhile. Control thread, but for what librte_vhost's event
// thread does when the guest goes, and the worker that waits for the device.
class OffloadPath {
 public:
  OffloadPath(std::shared_ptr<GuestEndpoint> guest, std::shared_ptr<OffloadDevice> device, DeviceWorker& worker);
  ~OffloadPath();  // ends the run; waits for the device
  OffloadPath(const OffloadPath&) = delete;
  OffloadPath& operator=(const OffloadPath&) = delete;

  // done is called once, later. After an error the rings are as before.
  void Start(std::function<void(absl::Status)> done);
  // The rings' positions are librte_vhost's again when done is called, whatever its status: that says what was unclean.
  void Stop(std::function<void(absl::Status)> done);
  // The guest's rings have changed while the device serves them. Hands new eventfds over; returns false when it takes
  // more than that: the caller stops and starts anew.
  bool TakeChanges();

  // Something is wrong with the device: the next Stop need not wait for it long.
  void Suspect();

  // For how long the device has finished nothing of what the guest has sent; zero if there is nothing to finish.
  uint64_t StalledMs(absl::Time now);

 private:
  struct Run;
  const std::shared_ptr<GuestEndpoint> guest_;
  const std::shared_ptr<Run> run_;
  DeviceWorker& worker_;
};

}  // namespace everport
