#include "backend/datapath/vhost_driver.h"

#include <rte_vdpa.h>
#include <rte_version.h>
#include <rte_vhost.h>

#include <cstring>
#include <map>
#include <mutex>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "backend/base/log.h"
#include "backend/datapath/eal.h"

namespace everport {
namespace {

// librte_vhost names a connection by its socket's path; this is the way back to the port.
struct Registry {
  std::mutex mutex;
  std::map<std::string, std::shared_ptr<GuestEndpoint>> by_socket;
};
Registry& registry() {
  static auto* instance = new Registry;  // callbacks may come until the process ends
  return *instance;
}

std::shared_ptr<GuestEndpoint> FindBySocket(const std::string& socket) {
  std::lock_guard lock(registry().mutex);
  auto found = registry().by_socket.find(socket);
  return found == registry().by_socket.end() ? nullptr : found->second;
}

std::shared_ptr<GuestEndpoint> Find(int vid) {
  char path[PATH_MAX];
  return rte_vhost_get_ifname(vid, path, sizeof path) == 0 ? FindBySocket(path) : nullptr;
}

int NewDevice(int vid) {
  auto guest = Find(vid);
  if (!guest) return -1;
  guest->OnNewDevice(vid);
  return 0;
}
void DestroyDevice(int vid) {
  if (auto guest = Find(vid)) guest->OnDestroyDevice();
}
int VringStateChanged(int vid, uint16_t vring, int enabled) {
  if (auto guest = Find(vid)) guest->OnVringState(vid, vring, enabled != 0);
  return 0;
}
int FeaturesChanged(int vid, uint64_t features) {
  if (auto guest = Find(vid)) guest->OnFeatures(features);
  return 0;
}
rte_vhost_msg_result BeforeMessage(int vid, void* message) {
  uint32_t request = 0;  // a message begins with it
  std::memcpy(&request, message, sizeof request);
  if (auto guest = Find(vid)) guest->BeforeMessage(vid, request);
  return RTE_VHOST_MSG_RESULT_NOT_HANDLED;
}
rte_vhost_msg_result AfterMessage(int vid, void*) {
  if (auto guest = Find(vid)) guest->AfterMessage(vid);
  return RTE_VHOST_MSG_RESULT_NOT_HANDLED;
}
constexpr rte_vhost_user_extern_ops kMessageOps = {BeforeMessage, AfterMessage};

int NewConnection(int vid) {
  const auto guest = Find(vid);
  // The keeper never has a log exchanged while rings run.
  if (guest && guest->straight() && rte_vhost_extern_callback_register(vid, &kMessageOps, nullptr) != 0) return -1;
  if (guest) guest->OnConnection(true);
  return 0;
}
void DestroyConnection(int vid) {
  if (auto guest = Find(vid)) guest->OnConnection(false);
}

// librte_vhost tells nobody that a vDPA driver has refused the guest's rings: it goes on, and logs
// "VHOST_CONFIG: (SOCKET) failed to configure vDPA device" (vhost_user.c, 22.11 to 24.11). Where that text should
// change, the rings' standing still tells, later.
void WatchVdpaRefusals() {
  static std::once_flag once;
  std::call_once(once, [] {
    WatchDpdkErrors([](std::string_view line) {
      if (line.find("failed to configure vDPA device") == std::string_view::npos) return;
      const size_t open = line.find('('), close = line.find(") failed");
      if (open == std::string_view::npos || close == std::string_view::npos || close < open) return;
      if (auto guest = FindBySocket(std::string(line.substr(open + 1, close - open - 1)))) guest->OnVdpaRefused();
    });
  });
}

const rte_vhost_device_ops kOps = [] {
  rte_vhost_device_ops ops{};
  ops.new_device = NewDevice;
  ops.destroy_device = DestroyDevice;
  ops.vring_state_changed = VringStateChanged;
  ops.features_changed = FeaturesChanged;
  ops.new_connection = NewConnection;
  ops.destroy_connection = DestroyConnection;
  return ops;
}();

}  // namespace

absl::StatusOr<std::unique_ptr<VhostDriver>> VhostDriver::Start(const std::string& port, const std::string& socket,
                                                                const FeatureContract& contract,
                                                                std::shared_ptr<GuestEndpoint> guest,
                                                                rte_vdpa_device* vdpa) {
  std::unique_ptr<VhostDriver> driver(new VhostDriver(port, socket));
  {
    std::lock_guard lock(registry().mutex);
    if (!registry().by_socket.emplace(socket, std::move(guest)).second)
      return absl::AlreadyExistsError(absl::StrCat(port, ": socket ", socket, " is another port's"));
  }
  driver->registered_ = true;
  const bool postcopy = contract.protocol_features >> kContractProtocolPagefault & 1;
  if (rte_vhost_driver_register(socket.c_str(),
                                RTE_VHOST_USER_CLIENT | (postcopy ? RTE_VHOST_USER_POSTCOPY_SUPPORT : 0)) != 0)
    return absl::UnavailableError(absl::StrCat(port, ": librte_vhost does not take the socket ", socket));
  if (absl::Status status = driver->Offer(contract); !status.ok()) return status;
  // After Offer: with a device attached the features asked for are no more librte_vhost's own.
  if (vdpa) {
    WatchVdpaRefusals();
    if (rte_vhost_driver_attach_vdpa_device(socket.c_str(), vdpa) != 0)
      return absl::UnavailableError(absl::StrCat(port, ": librte_vhost does not attach a vDPA device to ", socket));
  }
  if (rte_vhost_driver_callback_register(socket.c_str(), &kOps) != 0 || rte_vhost_driver_start(socket.c_str()) != 0)
    return absl::UnavailableError(absl::StrCat(port, ": librte_vhost did not start on ", socket));
  return driver;
}

// Offers exactly the contract. Not by rte_vhost_driver_set_features: that switches the built-in net data path off.
absl::Status VhostDriver::Offer(const FeatureContract& contract) {
  uint64_t supported = 0, protocol = 0;
  if (rte_vhost_driver_get_features(socket_.c_str(), &supported) != 0 ||
      rte_vhost_driver_get_protocol_features(socket_.c_str(), &protocol) != 0)
    return absl::UnavailableError(absl::StrCat(port_, ": librte_vhost tells no features for ", socket_));
  if (const uint64_t missing = contract.features & ~supported) {
    return absl::InvalidArgumentError(absl::StrCat(port_, ": contract ", contract.name, " offers ",
                                                   absl::StrJoin(FeatureNames(missing), ", "), ", which this DPDK (",
                                                   rte_version(), ") lacks; install a newer DPDK"));
  }
  rte_vhost_driver_disable_features(socket_.c_str(), supported & ~contract.features);
  rte_vhost_driver_set_protocol_features(socket_.c_str(), protocol & contract.protocol_features);
  // GET_QUEUE_NUM: the keeper answers it. Straight to QEMU librte_vhost says 128, whatever we tell it
  // (rte_vhost_driver_set_max_queue_num of 24.07 holds for VDUSE alone).
  return absl::OkStatus();
}

VhostDriver::~VhostDriver() {
  if (!registered_) return;
  rte_vhost_driver_unregister(socket_.c_str());
  std::lock_guard lock(registry().mutex);
  registry().by_socket.erase(socket_);
}

}  // namespace everport
