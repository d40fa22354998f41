#include "backend/vhost_user/codec.h"

#include <algorithm>

#include "absl/strings/str_cat.h"

namespace everport::vhost_user {
namespace {

constexpr uint16_t kU64 = sizeof(uint64_t);
constexpr uint16_t kMemTableHeader = 8;  // number of regions, padding
constexpr uint16_t kMemTableMax = kMemTableHeader + kMaxMemoryRegions * sizeof(MemoryRegion);
constexpr uint16_t kConfigMax = sizeof(ConfigHeader) + kConfigSpace;

constexpr RequestRule kRules[] = {
    {Request::kGetFeatures, 0, 0, 0, 0, true, -1},
    {Request::kSetFeatures, kU64, kU64, 0, 0, false, -1},
    {Request::kSetOwner, 0, 0, 0, 0, false, -1},
    {Request::kResetOwner, 0, 0, 0, 0, false, -1},
    {Request::kSetMemTable, kMemTableHeader, kMemTableMax, 0, kMaxMemoryRegions, false, -1},
    {Request::kSetLogBase, sizeof(LogBase), sizeof(LogBase), 1, 1, true, kProtocolLogShmfd},
    {Request::kSetVringNum, sizeof(VringState), sizeof(VringState), 0, 0, false, -1},
    {Request::kSetVringAddr, sizeof(VringAddr), sizeof(VringAddr), 0, 0, false, -1},
    {Request::kSetVringBase, sizeof(VringState), sizeof(VringState), 0, 0, false, -1},
    {Request::kGetVringBase, sizeof(VringState), sizeof(VringState), 0, 0, true, -1},
    {Request::kSetVringKick, kU64, kU64, 0, 1, false, -1},
    {Request::kSetVringCall, kU64, kU64, 0, 1, false, -1},
    {Request::kSetVringErr, kU64, kU64, 0, 1, false, -1},
    {Request::kGetProtocolFeatures, 0, 0, 0, 0, true, -1},
    {Request::kSetProtocolFeatures, kU64, kU64, 0, 0, false, -1},
    {Request::kGetQueueNum, 0, 0, 0, 0, true, kProtocolMq},
    {Request::kSetVringEnable, sizeof(VringState), sizeof(VringState), 0, 0, false, -1},
    {Request::kSendRarp, kU64, kU64, 0, 0, false, kProtocolRarp},
    {Request::kNetSetMtu, kU64, kU64, 0, 0, false, kProtocolMtu},
    {Request::kSetBackendReqFd, 0, 0, 1, 1, false, kProtocolBackendReq},
    {Request::kGetConfig, sizeof(ConfigHeader), kConfigMax, 0, 0, true, kProtocolConfig},
    {Request::kSetConfig, sizeof(ConfigHeader), kConfigMax, 0, 0, false, kProtocolConfig},
    {Request::kPostcopyAdvise, 0, 0, 0, 0, true, kProtocolPagefault},
    {Request::kPostcopyListen, 0, 0, 0, 0, false, kProtocolPagefault},
    {Request::kPostcopyEnd, 0, 0, 0, 0, true, kProtocolPagefault},
    {Request::kResetDevice, 0, 0, 0, 0, false, kProtocolResetDevice},
    {Request::kSetStatus, kU64, kU64, 0, 0, false, kProtocolStatus},
    {Request::kGetStatus, 0, 0, 0, 0, true, kProtocolStatus},
};

absl::Status Malformed(const Message& message, std::string_view what) {
  return absl::InvalidArgumentError(absl::StrCat(RequestText(message.request), ": ", std::string(what)));
}

std::string Range(unsigned min, unsigned max) {
  return min == max ? absl::StrCat(min) : absl::StrCat(min, " to ", max);
}

absl::Status CheckMemTable(const Message& message) {
  const auto count = PayloadAs<uint32_t>(message);
  if (count == 0 || count > kMaxMemoryRegions)
    return Malformed(message, absl::StrCat(count, " regions; 1 to ", kMaxMemoryRegions, " are allowed"));
  if (message.payload.size() != kMemTableHeader + count * sizeof(MemoryRegion))
    return Malformed(message, absl::StrCat("payload of ", message.payload.size(), " bytes for ", count, " regions"));
  if (message.fds.size() != count)
    return Malformed(message, absl::StrCat(message.fds.size(), " descriptors for ", count, " regions"));
  return absl::OkStatus();
}

absl::Status CheckVringFd(const Message& message) {
  const auto value = PayloadAs<uint64_t>(message);
  if (value & ~(kVringIndexMask | kVringNoFd)) return Malformed(message, absl::StrCat("value 0x", absl::Hex(value)));
  const size_t wanted = value & kVringNoFd ? 0 : 1;
  if (message.fds.size() != wanted)
    return Malformed(message, absl::StrCat(message.fds.size(), " descriptors, expected ", wanted));
  return absl::OkStatus();
}

absl::Status CheckConfig(const Message& message) {
  const auto header = PayloadAs<ConfigHeader>(message);
  const size_t data = message.payload.size() - sizeof header;
  if (header.offset > kConfigSpace || header.size > kConfigSpace - header.offset)
    return Malformed(message, absl::StrCat("bytes ", header.offset, " + ", header.size, " are outside the ",
                                           kConfigSpace, " bytes of a configuration space"));
  if (data != header.size) return Malformed(message, absl::StrCat(data, " bytes of data where it says ", header.size));
  return absl::OkStatus();
}

}  // namespace

const RequestRule* FindRule(Request request) {
  const auto* rule = std::find_if(std::begin(kRules), std::end(kRules),
                                  [request](const RequestRule& r) { return r.request == request; });
  return rule == std::end(kRules) ? nullptr : rule;
}

std::string RequestText(Request request) {
  const std::string_view name = RequestName(request);
  return name.empty() ? absl::StrCat("request ", static_cast<uint32_t>(request)) : std::string(name);
}

absl::Status CheckForm(const Message& message) {
  if ((message.flags & kVersionMask) != kVersion)
    return Malformed(message, absl::StrCat("version ", message.flags & kVersionMask, ", expected 1"));
  if (message.flags & kFlagReply) return Malformed(message, "a reply where a request belongs");
  const RequestRule* rule = FindRule(message.request);
  if (!rule) return absl::OkStatus();
  if (message.payload.size() < rule->min_payload || message.payload.size() > rule->max_payload)
    return Malformed(message, absl::StrCat("payload of ", message.payload.size(), " bytes, expected ",
                                           Range(rule->min_payload, rule->max_payload)));
  if (message.fds.size() < rule->min_fds || message.fds.size() > rule->max_fds)
    return Malformed(message,
                     absl::StrCat(message.fds.size(), " descriptors, expected ", Range(rule->min_fds, rule->max_fds)));
  switch (message.request) {
    case Request::kSetMemTable:
      return CheckMemTable(message);
    case Request::kSetVringKick:
    case Request::kSetVringCall:
    case Request::kSetVringErr:
      return CheckVringFd(message);
    case Request::kGetConfig:
    case Request::kSetConfig:
      return CheckConfig(message);
    default:
      return absl::OkStatus();
  }
}

std::vector<MemoryRegion> DecodeMemTable(const Message& message) {
  std::vector<MemoryRegion> regions(message.fds.size());
  if (!regions.empty())
    std::memcpy(regions.data(), message.payload.data() + kMemTableHeader, regions.size() * sizeof(MemoryRegion));
  return regions;
}

Message EncodeMemTable(const std::vector<MemoryRegion>& regions, uint32_t flags) {
  Message message = MakeMessage(Request::kSetMemTable, flags);
  const uint32_t header[2] = {static_cast<uint32_t>(regions.size()), 0};
  message.payload.resize(sizeof header + regions.size() * sizeof(MemoryRegion));
  std::memcpy(message.payload.data(), header, sizeof header);
  if (!regions.empty())
    std::memcpy(message.payload.data() + sizeof header, regions.data(), regions.size() * sizeof(MemoryRegion));
  return message;
}

}  // namespace everport::vhost_user
