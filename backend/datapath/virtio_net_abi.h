#pragma once

// Virtio 1.2 numbers and layouts of a network device, as <linux/virtio_net.h> and <linux/virtio_ring.h> have them,
// which C++ does not accept. Feature bits that contracts know are in migration/feature_contract.h.

#include <cstdint>

namespace everport::virtio_net {

// 5.1.3 and 6
enum Feature : unsigned {
  kMac = 5,
  kStatus = 16,
  kCtrlVlan = 19,
  kCtrlRxExtra = 20,
  kCtrlMacAddr = 23,
  kNotifyOnEmpty = 24,
  kAccessPlatform = 33,
  kStandby = 62,
  kSpeedDuplex = 63,
};

// 5.1.4: offsets into the configuration space, bytes
inline constexpr uint32_t kConfigMac = 0, kConfigStatus = 6, kConfigMaxVirtqueuePairs = 8;
inline constexpr uint16_t kLinkUp = 1;  // in the status field

inline constexpr uint32_t kHeaderBytes = 12;  // 5.1.6: before each frame, with VERSION_1

// 5.1.6.5
struct ControlHeader {
  uint8_t command_class;
  uint8_t command;
};
inline constexpr uint8_t kControlOk = 0, kControlError = 1;
inline constexpr uint8_t kClassMq = 4, kMqVqPairsSet = 0;

// 2.7.5
struct Desc {
  uint64_t addr;
  uint32_t len;
  uint16_t flags, next;
};
inline constexpr uint16_t kDescNext = 1, kDescWrite = 2;

// 2.1
enum DeviceStatus : uint8_t {
  kAcknowledge = 1,
  kDriver = 2,
  kDriverOk = 4,
  kFeaturesOk = 8,
  kNeedsReset = 64,
  kFailed = 128,
};

inline constexpr uint32_t kDeviceNet = 1, kDeviceBlock = 2;  // 5

}  // namespace everport::virtio_net
