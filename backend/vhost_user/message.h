#pragma once

// The vhost-user wire format as QEMU 7.2 to 11 speaks it to a net back-end.
// Source: QEMU docs/interop/vhost-user.rst ("Message Specification"). Values only, no I/O: see codec.h and channel.h.

#include <array>
#include <cstdint>
#include <string_view>
#include <vector>

#include "backend/base/unique_fd.h"

namespace everport::vhost_user {

// Front-end message types. Those not named here are answered as unknown.
enum class Request : uint32_t {
  kGetFeatures = 1,
  kSetFeatures = 2,
  kSetOwner = 3,
  kResetOwner = 4,
  kSetMemTable = 5,
  kSetLogBase = 6,
  kSetLogFd = 7,
  kSetVringNum = 8,
  kSetVringAddr = 9,
  kSetVringBase = 10,
  kGetVringBase = 11,
  kSetVringKick = 12,
  kSetVringCall = 13,
  kSetVringErr = 14,
  kGetProtocolFeatures = 15,
  kSetProtocolFeatures = 16,
  kGetQueueNum = 17,
  kSetVringEnable = 18,
  kSendRarp = 19,
  kNetSetMtu = 20,
  kSetBackendReqFd = 21,
  kIotlbMsg = 22,
  kSetVringEndian = 23,
  kGetConfig = 24,
  kSetConfig = 25,
  kPostcopyAdvise = 28,
  kPostcopyListen = 29,
  kPostcopyEnd = 30,
  kGetInflightFd = 31,
  kSetInflightFd = 32,
  kResetDevice = 34,
  kGetMaxMemSlots = 36,
  kAddMemReg = 37,
  kRemMemReg = 38,
  kSetStatus = 39,
  kGetStatus = 40,
};

// "SET_FEATURES" and so on, as the specification writes it without VHOST_USER_; "request 99" is up to the caller.
std::string_view RequestName(Request request);  // empty for a value that is not in the enum

// Header flags: bits 0-1 version (always 1), bit 2 reply, bit 3 need_reply.
inline constexpr uint32_t kVersion = 0x1;
inline constexpr uint32_t kVersionMask = 0x3;
inline constexpr uint32_t kFlagReply = 1u << 2;
inline constexpr uint32_t kFlagNeedReply = 1u << 3;

// Bit numbers of the protocol features ("Protocol features" in the specification).
enum ProtocolFeature : unsigned {
  kProtocolMq = 0,
  kProtocolLogShmfd = 1,
  kProtocolRarp = 2,
  kProtocolReplyAck = 3,
  kProtocolMtu = 4,
  kProtocolBackendReq = 5,
  kProtocolCrossEndian = 6,
  kProtocolCryptoSession = 7,
  kProtocolPagefault = 8,
  kProtocolConfig = 9,
  kProtocolBackendSendFd = 10,
  kProtocolHostNotifier = 11,
  kProtocolInflightShmfd = 12,
  kProtocolResetDevice = 13,
  kProtocolInbandNotifications = 14,
  kProtocolConfigureMemSlots = 15,
  kProtocolStatus = 16,
};

inline constexpr unsigned kMaxMemoryRegions = 8;
inline constexpr unsigned kMaxFds = 8;          // the most any message carries
inline constexpr unsigned kMaxPayload = 1024;   // bytes; the longest known one is GET_CONFIG's, 12 + 256
inline constexpr unsigned kMaxQueuePairs = 16;  // everport's limit
inline constexpr unsigned kMaxVrings = 2 * kMaxQueuePairs;
inline constexpr uint64_t kVringIndexMask = 0xff;  // in the u64 of KICK, CALL and ERR
inline constexpr uint64_t kVringNoFd = 1u << 8;

// Payloads, byte for byte (the specification's host byte order: both ends share a machine).
struct Header {
  uint32_t request;
  uint32_t flags;
  uint32_t size;  // of the payload, bytes
};
static_assert(sizeof(Header) == 12);

struct VringState {
  uint32_t index;
  uint32_t num;
};
static_assert(sizeof(VringState) == 8);

struct VringAddr {
  uint32_t index;
  uint32_t flags;           // bit 0: VHOST_VRING_F_LOG, used-ring writes are logged
  uint64_t desc_user_addr;  // front-end virtual addresses
  uint64_t used_user_addr;
  uint64_t avail_user_addr;
  uint64_t log_guest_addr;  // guest physical
  bool operator==(const VringAddr&) const = default;
};
static_assert(sizeof(VringAddr) == 40);

struct MemoryRegion {
  uint64_t guest_phys_addr;
  uint64_t memory_size;  // bytes
  uint64_t userspace_addr;
  uint64_t mmap_offset;  // bytes from the start of the fd's file
  bool operator==(const MemoryRegion&) const = default;
};
static_assert(sizeof(MemoryRegion) == 32);

struct LogBase {
  uint64_t mmap_size;
  uint64_t mmap_offset;
};
static_assert(sizeof(LogBase) == 16);

// One message as it travels: header, payload bytes, descriptors. Owns the descriptors.
struct Message {
  Request request = Request::kGetFeatures;
  uint32_t flags = kVersion;
  std::vector<uint8_t> payload;
  std::vector<UniqueFd> fds;

  bool need_reply() const { return flags & kFlagNeedReply; }
};

}  // namespace everport::vhost_user
