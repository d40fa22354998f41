// The front-end's side of a session: one short function per request.

#include <algorithm>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "backend/keeper/memory_table.h"
#include "backend/keeper/session.h"

namespace everport {

using vhost_user::Message;
using vhost_user::PayloadAs;
using vhost_user::Request;
using vhost_user::RequestText;
using vhost_user::VringState;

namespace {

absl::Status Broken(Request request, std::string_view what) {
  return absl::FailedPreconditionError(absl::StrCat(RequestText(request), ": ", std::string(what)));
}

// Not offered, yet they carry state that must not be lost, or leave the front-end waiting for an answer.
bool CannotBeIgnored(Request request) {
  switch (request) {
    case Request::kIotlbMsg:
    case Request::kSetVringEndian:
    case Request::kPostcopyAdvise:
    case Request::kPostcopyListen:
    case Request::kPostcopyEnd:
    case Request::kGetInflightFd:
    case Request::kSetInflightFd:
    case Request::kGetMaxMemSlots:
    case Request::kAddMemReg:
    case Request::kRemMemReg:
      return true;
    default:
      return false;
  }
}

}  // namespace

const Session::Route Session::kRoutes[] = {
    {Request::kGetFeatures, &Session::OnGetFeatures},
    {Request::kSetFeatures, &Session::OnSetFeatures},
    {Request::kSetOwner, &Session::OnSetOwner},
    {Request::kResetOwner, &Session::OnResetOwner},
    {Request::kGetProtocolFeatures, &Session::OnGetProtocolFeatures},
    {Request::kSetProtocolFeatures, &Session::OnSetProtocolFeatures},
    {Request::kGetQueueNum, &Session::OnGetQueueNum},
    {Request::kSetMemTable, &Session::OnSetMemTable},
    {Request::kSetLogBase, &Session::OnSetLogBase},
    {Request::kSetVringNum, &Session::OnSetVringNum},
    {Request::kSetVringBase, &Session::OnSetVringBase},
    {Request::kSetVringAddr, &Session::OnSetVringAddr},
    {Request::kGetVringBase, &Session::OnGetVringBase},
    {Request::kSetVringKick, &Session::OnSetVringFd},
    {Request::kSetVringCall, &Session::OnSetVringFd},
    {Request::kSetVringErr, &Session::OnSetVringFd},
    {Request::kSetVringEnable, &Session::OnSetVringEnable},
    {Request::kSendRarp, &Session::OnSendRarp},
    {Request::kNetSetMtu, &Session::OnNetSetMtu},
    {Request::kSetBackendReqFd, &Session::OnSetBackendReqFd},
    {Request::kGetConfig, &Session::OnGetConfig},
    {Request::kSetConfig, &Session::OnSetConfig},
    {Request::kResetDevice, &Session::OnResetDevice},
    {Request::kSetStatus, &Session::OnSetStatus},
    {Request::kGetStatus, &Session::OnGetStatus},
    {Request::kPostcopyAdvise, &Session::OnPostcopyAdvise},
    {Request::kPostcopyListen, &Session::OnPostcopyListen},
    {Request::kPostcopyEnd, &Session::OnPostcopyEnd},
};

Session::Handled Session::Handle(Message& message) {
  if (memory_ack_due_) return OnMemoryAck(message);
  if (absl::Status status = vhost_user::CheckForm(message); !status.ok()) return status;
  const auto* route = std::find_if(std::begin(kRoutes), std::end(kRoutes),
                                   [&](const Route& r) { return r.request == message.request; });
  if (route == std::end(kRoutes)) return HandleUnknown(message);
  const vhost_user::RequestRule* rule = vhost_user::FindRule(message.request);
  if (rule->protocol_feature >= 0 && !(record_.protocol_features >> rule->protocol_feature & 1))
    return HandleUnknown(message);
  return (this->*route->handler)(message);
}

// vhost-user.rst: a request that is not understood gets a non-zero answer where one is asked for; else nothing can be
// said. Then what carries state, or would leave the front-end waiting for ever, ends the session.
Session::Handled Session::HandleUnknown(const Message& message) {
  const vhost_user::RequestRule* rule = vhost_user::FindRule(message.request);
  const bool waits = (rule && rule->always_answered) || CannotBeIgnored(message.request);
  if (message.need_reply() && record_.HasProtocol(vhost_user::kProtocolReplyAck) && !(rule && rule->always_answered))
    return Outcome::kRefused;
  if (waits) return Broken(message.request, "was not offered, or not negotiated");
  if (!std::exchange(unknown_noted_, true))
    Put(Note{absl::StrCat(RequestText(message.request), " is ignored: it was not offered, or not negotiated")});
  return Outcome::kAnswered;
}

Session::Handled Session::Reply(Request request, uint64_t value) {
  Put(SendToFrontend{vhost_user::MakeReply(request, value)});
  return Outcome::kAnswered;
}

absl::StatusOr<unsigned> Session::RingIndex(const Message& message) const {
  const uint32_t index = PayloadAs<uint32_t>(message);
  if (index < vrings()) return index;
  return Broken(message.request, absl::StrCat("ring ", index, " of a port with ", vrings(), " rings"));
}

Session::Handled Session::OnGetFeatures(Message& message) {
  return Reply(message.request, contract_.features);
}

Session::Handled Session::OnSetFeatures(Message& message) {
  const auto features = PayloadAs<uint64_t>(message);
  if (const uint64_t extra = features & ~contract_.features; extra != 0)
    return Broken(message.request, absl::StrCat("not offered by contract ", contract_.name, ": ",
                                                absl::StrJoin(FeatureNames(extra), ", ")));
  const uint64_t changed = features ^ record_.features;
  if (record_.any_started() && (changed & ~(uint64_t{1} << kVhostLogAll)) != 0)
    return Broken(message.request,
                  absl::StrCat("changed while rings run: ", absl::StrJoin(FeatureNames(changed), ", ")));
  record_.features = features;
  record_.features_told = true;
  return Forward(message, 0);
}

// A daemon gets SET_OWNER first thing in a replay, whether the front-end has sent it or not.
Session::Handled Session::OnSetOwner(Message&) {
  record_.owner = true;
  return Outcome::kRecorded;
}

// The specification wants it ignored or taken as "disable all rings"; the second is safe for a guest that resets.
Session::Handled Session::OnResetOwner(Message&) {
  for (VringRecord& vring : record_.vrings) vring.enabled = false;
  return Outcome::kResync;
}

Session::Handled Session::OnGetProtocolFeatures(Message& message) {
  return Reply(message.request, contract_.protocol_features);
}

Session::Handled Session::OnSetProtocolFeatures(Message& message) {
  const auto features = PayloadAs<uint64_t>(message);
  if (const uint64_t extra = features & ~contract_.protocol_features; extra != 0)
    return Broken(message.request, absl::StrCat("bits 0x", absl::Hex(extra), " were not offered"));
  record_.protocol_features = features;
  return Outcome::kRecorded;
}

Session::Handled Session::OnGetQueueNum(Message& message) {
  return Reply(message.request, spec_.queue_pairs);
}

Session::Handled Session::OnSetMemTable(Message& message) {
  std::vector<RecordedRegion> memory;
  const std::vector<vhost_user::MemoryRegion> regions = vhost_user::DecodeMemTable(message);
  for (size_t i = 0; i < regions.size(); ++i) memory.push_back({regions[i], std::move(message.fds[i])});
  if (absl::Status status = CheckMemoryTable(memory, *files_); !status.ok()) return status;
  for (VringRecord& vring : record_.vrings) {
    if (!vring.addr) continue;
    const absl::Status fits = CheckRing(memory, *vring.addr, vring.num, record_.packed());
    if (fits.ok()) continue;
    if (vring.started()) return Broken(message.request, "a started ring is outside the new table");
    vring.addr.reset();
  }
  const bool unchanged =
      std::equal(memory.begin(), memory.end(), record_.memory.begin(), record_.memory.end(),
                 [](const RecordedRegion& a, const RecordedRegion& b) { return a.region == b.region; });
  record_.memory = std::move(memory);
  if (record_.listening()) return OnMemoryWhileListening(unchanged, record_.any_started());
  if (record_.any_started()) return Outcome::kResync;  // librte_vhost would remap under the pollers
  return Forward(message, 0);
}

Session::Handled Session::OnSetLogBase(Message& message) {
  const auto log = PayloadAs<vhost_user::LogBase>(message);
  const absl::StatusOr<uint64_t> size = files_->Size(message.fds[0].get());
  if (!size.ok()) return Broken(message.request, std::string(size.status().message()));
  // librte_vhost from 22.11.10 on applies another offset twice.
  if (log.mmap_offset != 0) return Broken(message.request, "only an offset of 0 is supported");
  if (log.mmap_size == 0 || log.mmap_size > *size)
    return Broken(message.request, absl::StrCat(log.mmap_size, " bytes of a file of ", *size));
  const bool another = record_.log.has_value();
  record_.log = log;
  record_.log_fd = std::move(message.fds[0]);
  if (another) return Outcome::kResync;
  return Forward(message, 0);
}

Session::Handled Session::OnSetVringNum(Message& message) {
  const absl::StatusOr<unsigned> ring = RingIndex(message);
  if (!ring.ok()) return ring.status();
  VringRecord& vring = record_.vrings[*ring];
  if (vring.started()) return Broken(message.request, absl::StrCat("ring ", *ring, " is started"));
  const uint32_t num = PayloadAs<VringState>(message).num;
  if (absl::Status status = CheckRingSize(num, record_.packed(), contract_.max_ring_size); !status.ok())
    return Broken(message.request, std::string(status.message()));
  vring.num = num;
  vring.addr.reset();  // its extent has changed
  return Forward(message, *ring);
}

Session::Handled Session::OnSetVringBase(Message& message) {
  const absl::StatusOr<unsigned> ring = RingIndex(message);
  if (!ring.ok()) return ring.status();
  VringRecord& vring = record_.vrings[*ring];
  if (vring.started()) return Broken(message.request, absl::StrCat("ring ", *ring, " is started"));
  const uint32_t base = PayloadAs<VringState>(message).num;
  if (!record_.packed() && base > 0xffff) return Broken(message.request, absl::StrCat("ring ", *ring, ": base ", base));
  vring.base = base;
  ClearHead(*ring);
  return Forward(message, *ring);
}

Session::Handled Session::OnSetVringAddr(Message& message) {
  const absl::StatusOr<unsigned> ring = RingIndex(message);
  if (!ring.ok()) return ring.status();
  VringRecord& vring = record_.vrings[*ring];
  const auto addr = PayloadAs<vhost_user::VringAddr>(message);
  if (record_.memory.empty()) return Broken(message.request, absl::StrCat("ring ", *ring, ": before SET_MEM_TABLE"));
  if (vring.num == 0) return Broken(message.request, absl::StrCat("ring ", *ring, ": before SET_VRING_NUM"));
  if (absl::Status status = CheckRing(record_.memory, addr, vring.num, record_.packed()); !status.ok()) return status;
  const bool moved = vring.addr && (addr.desc_user_addr != vring.addr->desc_user_addr ||
                                    addr.avail_user_addr != vring.addr->avail_user_addr ||
                                    addr.used_user_addr != vring.addr->used_user_addr);
  if (vring.started() && moved) return Broken(message.request, absl::StrCat("ring ", *ring, " moves while started"));
  vring.addr = addr;
  return Forward(message, *ring);
}

Session::Handled Session::OnGetVringBase(Message& message) {
  const absl::StatusOr<unsigned> ring = RingIndex(message);
  if (!ring.ok()) return ring.status();
  if (link_ == Link::kSynced && record_.vrings[*ring].started()) {
    Forward(message, *ring);
  } else {
    Settle({message.request, false, *ring}, 0);
  }
  return Outcome::kAnswered;
}

Session::Handled Session::OnSetVringFd(Message& message) {
  const auto value = PayloadAs<uint64_t>(message);
  const unsigned ring = static_cast<unsigned>(value & vhost_user::kVringIndexMask);
  if (ring >= vrings())
    return Broken(message.request, absl::StrCat("ring ", ring, " of a port with ", vrings(), " rings"));
  VringRecord& vring = record_.vrings[ring];
  UniqueFd fd = message.fds.empty() ? UniqueFd() : std::move(message.fds[0]);
  if (fd.valid())
    if (absl::Status s = files_->CheckEventFd(fd.get()); !s.ok())
      return Broken(message.request, absl::StrCat("ring ", ring, ": its descriptor: ", std::string(s.message())));
  if (message.request == Request::kSetVringKick) {
    // Without MQ nobody serves the further pairs. SET_VRING_ENABLE alone starts nothing and is let through: QEMU sends
    // it before SET_FEATURES on a migration's target.
    if (ring >= 2 && !record_.Has(kNetMq))
      return Broken(message.request, absl::StrCat("ring ", ring, " without VIRTIO_NET_F_MQ"));
    if (!vring.addr) return Broken(message.request, absl::StrCat("ring ", ring, ": before SET_VRING_ADDR"));
    // Features may have changed since the address was told, and with them the layout.
    if (absl::Status s = CheckRingSize(vring.num, record_.packed(), contract_.max_ring_size); !s.ok())
      return Broken(message.request, std::string(s.message()));
    if (absl::Status s = CheckRing(record_.memory, *vring.addr, vring.num, record_.packed()); !s.ok()) return s;
    if (record_.packed() && (vring.base & 0x7fff) >= vring.num)
      return Broken(message.request, absl::StrCat("ring ", ring, ": base ", vring.base & 0x7fff, " of ", vring.num));
    // A poller of the session before may have written after that one's end.
    if (!vring.started()) ClearHead(ring);
    vring.kick = std::move(fd);
    vring.kick_told = true;
    // vhost-user.rst, "Ring states": without protocol features there is no SET_VRING_ENABLE.
    if (!record_.Has(kVhostUserProtocolFeatures)) vring.enabled = true;
  } else if (message.request == Request::kSetVringCall) {
    vring.call = std::move(fd);
    vring.call_told = true;
  } else {
    vring.err = std::move(fd);
    vring.err_told = true;
  }
  return Forward(message, ring);
}

Session::Handled Session::OnSetVringEnable(Message& message) {
  const absl::StatusOr<unsigned> ring = RingIndex(message);
  if (!ring.ok()) return ring.status();
  const uint32_t enable = PayloadAs<VringState>(message).num;
  if (enable > 1) return Broken(message.request, absl::StrCat("ring ", *ring, ": ", enable, " is neither 0 nor 1"));
  record_.vrings[*ring].enabled = enable == 1;
  return Forward(message, *ring);
}

// Announcing is the daemon's own work: librte_vhost would inject the frame into the relay path only.
Session::Handled Session::OnSendRarp(Message& message) {
  Announce announce{};
  std::copy_n(message.payload.begin(), announce.mac.size(), announce.mac.begin());
  Put(announce);
  return Outcome::kRecorded;
}

Session::Handled Session::OnNetSetMtu(Message& message) {
  constexpr uint64_t kMinMtu = 68;  // virtio 1.2, 5.1.4.1
  const auto mtu = PayloadAs<uint64_t>(message);
  if (mtu < kMinMtu || mtu > spec_.mtu) {
    Put(Note{absl::StrCat("NET_SET_MTU: ", mtu, " is refused; this port's mtu is ", spec_.mtu)});
    return Outcome::kRefused;
  }
  record_.mtu = static_cast<uint16_t>(mtu);
  if (!(daemon_protocol_ >> vhost_user::kProtocolMtu & 1)) return Outcome::kRecorded;
  return Forward(message, 0);
}

// For messages from back-end to front-end, of which a relay path has none: kept, not passed on.
Session::Handled Session::OnSetBackendReqFd(Message& message) {
  record_.backend_req = std::move(message.fds[0]);
  return Outcome::kRecorded;
}

// struct virtio_net_config, virtio 1.2, 5.1.4: mac (as far as told), status, max_virtqueue_pairs, mtu.
std::array<uint8_t, vhost_user::kConfigSpace> Session::ConfigSpace() const {
  constexpr uint16_t kLinkUp = 1;
  std::array<uint8_t, vhost_user::kConfigSpace> config = record_.config;
  const uint16_t fields[] = {kLinkUp, spec_.queue_pairs, spec_.mtu};
  std::memcpy(config.data() + 6, fields, sizeof fields);
  return config;
}

Session::Handled Session::OnGetConfig(Message& message) {
  const auto header = PayloadAs<vhost_user::ConfigHeader>(message);
  const auto config = ConfigSpace();
  Message reply = vhost_user::MakeMessage(message.request, vhost_user::kFlagReply, header);
  reply.payload.insert(reply.payload.end(), config.begin() + header.offset,
                       config.begin() + header.offset + header.size);
  Put(SendToFrontend{std::move(reply)});
  return Outcome::kAnswered;
}

// Only the mac is the driver's to write (virtio 1.2, 5.1.4.2, legacy); the rest is told anew by ConfigSpace.
Session::Handled Session::OnSetConfig(Message& message) {
  const auto header = PayloadAs<vhost_user::ConfigHeader>(message);
  std::copy_n(message.payload.begin() + sizeof header, header.size, record_.config.begin() + header.offset);
  return Outcome::kRecorded;
}

// All device state back to its beginning; memory, log and eventfds are the connection's.
Session::Handled Session::OnResetDevice(Message&) {
  record_.features = 0;
  record_.features_told = false;
  record_.status = 0;
  for (unsigned ring = 0; ring < vrings(); ++ring) {
    StopRing(ring, 0);
    record_.vrings[ring].base = 0;
    record_.vrings[ring].enabled = false;
  }
  return Outcome::kResync;
}

Session::Handled Session::OnSetStatus(Message& message) {
  const auto status = PayloadAs<uint64_t>(message);
  if (status > 0xff) return Broken(message.request, absl::StrCat("status ", status));
  record_.status = static_cast<uint8_t>(status);
  if (!(daemon_protocol_ >> vhost_user::kProtocolStatus & 1)) return Outcome::kRecorded;
  return Forward(message, 0);
}

Session::Handled Session::OnGetStatus(Message& message) {
  return Reply(message.request, record_.status);
}

}  // namespace everport
