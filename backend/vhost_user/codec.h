#pragma once

// From a message as it travelled to checked values, and back. Pure; any thread.
// What is checked here is form: version, payload size, number of descriptors. What a message means in a session, and
// whether it may come now, is the session's affair (backend/keeper/session.h).

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <string>
#include <type_traits>
#include <vector>

#include "absl/status/status.h"
#include "backend/vhost_user/message.h"

namespace everport::vhost_user {

// How a request must look. Source: vhost-user.rst, "Front-end message types".
struct RequestRule {
  Request request;
  uint16_t min_payload, max_payload;  // bytes
  uint8_t min_fds, max_fds;
  bool always_answered;     // the specification gives it a reply of its own, whatever need_reply says
  int8_t protocol_feature;  // the bit that must have been negotiated first; -1: none
};

// nullptr for what everport does not serve: the session answers it as unknown.
const RequestRule* FindRule(Request request);

// "SET_FEATURES", or "request 99".
std::string RequestText(Request request);

// A front-end's message against its rule. The error names the request and what is wrong with it. A request without a
// rule passes: its size was limited by the channel.
absl::Status CheckForm(const Message& message);

// The payload's first sizeof(T) bytes. The payload must have passed CheckForm, or be at least that long.
template <typename T>
T PayloadAs(const Message& message) {
  static_assert(std::is_trivially_copyable_v<T>);
  T value{};
  if (!message.payload.empty())
    std::memcpy(&value, message.payload.data(), std::min(sizeof value, message.payload.size()));
  return value;
}

template <typename T>
Message MakeMessage(Request request, uint32_t flags, const T& payload) {
  static_assert(std::is_trivially_copyable_v<T>);
  Message message;
  message.request = request;
  message.flags = kVersion | flags;
  message.payload.resize(sizeof payload);
  std::memcpy(message.payload.data(), &payload, sizeof payload);
  return message;
}
inline Message MakeMessage(Request request, uint32_t flags) {
  Message message;
  message.request = request;
  message.flags = kVersion | flags;
  return message;
}
inline Message MakeReply(Request request, uint64_t value) {
  return MakeMessage(request, kFlagReply, value);
}

// SET_MEM_TABLE: the regions of a message that has passed CheckForm, where their number was compared with the size and
// with the descriptors; fds[i] belongs to region i.
std::vector<MemoryRegion> DecodeMemTable(const Message& message);
Message EncodeMemTable(const std::vector<MemoryRegion>& regions, uint32_t flags);  // without descriptors

// GET_CONFIG and SET_CONFIG.
struct ConfigHeader {
  uint32_t offset;  // into the device's configuration space
  uint32_t size;    // bytes that follow
  uint32_t flags;
};
static_assert(sizeof(ConfigHeader) == 12);
inline constexpr uint32_t kConfigSpace = 256;  // VHOST_USER_MAX_CONFIG_SIZE

}  // namespace everport::vhost_user
