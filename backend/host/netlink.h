#pragma once

// The few messages of rtnetlink(7) that we use, checked before they are read.

#include <linux/netlink.h>
#include <linux/rtnetlink.h>

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "backend/base/unique_fd.h"

namespace everport::netlink {

// A non-blocking NETLINK_ROUTE socket in the process's network namespace, subscribed to these groups (RTMGRP_…).
absl::StatusOr<UniqueFd> Open(uint32_t groups);

// Asks for one interface's RTM_NEWLINK. ext_mask: RTEXT_FILTER_…, 0: nothing more. NotFound without such an interface.
absl::StatusOr<std::vector<uint8_t>> GetLink(const std::string& interface, uint32_t ext_mask);

// A network device.
struct Link {
  std::string name;
  unsigned index = 0;
  bool running = false;  // it is up and has a carrier
};
// Of a RTM_NEWLINK or RTM_DELLINK about the device itself (a bridge tells of its ports by such messages, too).
std::optional<Link> ParseLink(const nlmsghdr& message);
absl::StatusOr<Link> GetLinkState(const std::string& interface);  // NotFound
absl::StatusOr<std::vector<Link>> ListLinks();                    // all in this network namespace

// Calls for each message of a datagram whose length is right.
void ForEachMessage(const uint8_t* data, size_t size, const std::function<void(const nlmsghdr&)>& call);

// Attributes, one after the other, as far as their lengths are right. The type is without NLA_F_NESTED.
struct Attribute {
  uint16_t type;
  const uint8_t* data;
  size_t size;
  std::string_view text() const;  // up to its NUL
  template <typename T>
  const T* as() const {
    return size >= sizeof(T) ? reinterpret_cast<const T*>(data) : nullptr;
  }
};
std::vector<Attribute> Attributes(const uint8_t* data, size_t size);
// Of a RTM_NEWLINK or RTM_DELLINK; empty for another message.
std::vector<Attribute> LinkAttributes(const nlmsghdr& message);
const ifinfomsg* LinkHeader(const nlmsghdr& message);  // nullptr for another message
const Attribute* Find(const std::vector<Attribute>& attributes, uint16_t type);

}  // namespace everport::netlink
