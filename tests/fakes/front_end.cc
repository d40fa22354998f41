#include "tests/fakes/front_end.h"

#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "tests/fakes/require.h"

namespace everport::fakes {
namespace {

using vhost_user::Request;

constexpr uint8_t kStatusDriverOk = 0x0f;  // ACKNOWLEDGE, DRIVER, DRIVER_OK, FEATURES_OK

struct StepRow {
  Step::Kind kind;
  const char* name;
};
constexpr StepRow kStepNames[] = {
    {Step::kGetFeatures, "GET_FEATURES"},
    {Step::kGetProtocolFeatures, "GET_PROTOCOL_FEATURES"},
    {Step::kSetProtocolFeatures, "SET_PROTOCOL_FEATURES"},
    {Step::kGetQueueNum, "GET_QUEUE_NUM"},
    {Step::kSetBackendReqFd, "SET_BACKEND_REQ_FD"},
    {Step::kSetOwner, "SET_OWNER"},
    {Step::kSetFeatures, "SET_FEATURES"},
    {Step::kGetStatus, "GET_STATUS"},
    {Step::kSetStatus, "SET_STATUS"},
    {Step::kSetMemTable, "SET_MEM_TABLE"},
    {Step::kSetNum, "SET_VRING_NUM"},
    {Step::kSetBase, "SET_VRING_BASE"},
    {Step::kSetAddr, "SET_VRING_ADDR"},
    {Step::kSetKick, "SET_VRING_KICK"},
    {Step::kSetCall, "SET_VRING_CALL"},
    {Step::kSetErr, "SET_VRING_ERR"},
    {Step::kEnable, "SET_VRING_ENABLE 1"},
    {Step::kDisable, "SET_VRING_ENABLE 0"},
    {Step::kGetBase, "GET_VRING_BASE"},
};

UniqueFd NewEventFd() {
  UniqueFd fd(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  FAKES_REQUIRE(fd.valid());
  return fd;
}

absl::Status WithStep(const absl::Status& status, const Step& step) {
  if (status.ok()) return status;
  return absl::Status(status.code(), absl::StrCat(StepName(step), ": ", std::string(status.message())));
}

}  // namespace

std::string StepName(const Step& step) {
  for (const StepRow& row : kStepNames) {
    if (row.kind == step.kind)
      return step.kind < Step::kSetNum ? row.name : absl::StrCat(row.name, " ring ", step.ring);
  }
  return "?";
}

std::vector<Step> QemuConnectSteps(unsigned queue_pairs) {
  std::vector<Step> steps = {{Step::kGetFeatures}, {Step::kGetProtocolFeatures}, {Step::kSetProtocolFeatures},
                             {Step::kGetQueueNum}, {Step::kSetBackendReqFd},     {Step::kSetOwner},
                             {Step::kGetFeatures}};
  for (unsigned ring = 0; ring < 2 * queue_pairs; ++ring) {
    steps.push_back({Step::kSetCall, ring});
    steps.push_back({Step::kSetErr, ring});
  }
  for (unsigned ring = 0; ring < 2 * queue_pairs; ++ring) steps.push_back({Step::kEnable, ring});
  return steps;
}

std::vector<Step> QemuStartSteps(unsigned queue_pairs) {
  std::vector<Step> steps = {
      {Step::kSetFeatures}, {Step::kGetStatus}, {Step::kSetStatus, 0, 0x0b}, {Step::kSetMemTable}};
  for (unsigned ring = 0; ring < 2 * queue_pairs; ++ring) {
    for (Step::Kind kind : {Step::kSetNum, Step::kSetBase, Step::kSetAddr, Step::kSetKick, Step::kSetCall}) {
      steps.push_back({kind, ring});
    }
  }
  for (unsigned ring = 0; ring < 2 * queue_pairs; ++ring) steps.push_back({Step::kEnable, ring});
  steps.push_back({Step::kGetStatus});
  steps.push_back({Step::kSetStatus, 0, kStatusDriverOk});
  return steps;
}

std::vector<Step> QemuStopSteps(unsigned queue_pairs) {
  std::vector<Step> steps;
  for (unsigned ring = 0; ring < 2 * queue_pairs; ++ring) steps.push_back({Step::kGetBase, ring});
  return steps;
}

FrontEnd::FrontEnd(FrontEndOptions options) : options_(std::move(options)), bases_(2 * options_.queue_pairs) {
  const size_t rx_bytes = options_.mergeable ? options_.rx_buffer : options_.max_frame + 128;
  const size_t tx_bytes = options_.max_frame + 1024;
  const size_t per_pair = options_.ring_size * (rx_bytes + tx_bytes + 2 * 16 * 32 + 64) + (128 << 10);
  const size_t per_region = per_pair * options_.queue_pairs / options_.regions + 3 * per_pair / 2 + (2 << 20);
  memory_ = std::make_unique<GuestMemory>(options_.regions, per_region & ~size_t{4095});
  for (unsigned ring = 0; ring < 2 * options_.queue_pairs; ++ring) {
    kick_.push_back(NewEventFd());
    call_.push_back(NewEventFd());
    err_.push_back(NewEventFd());
  }
}

FrontEnd::~FrontEnd() {
  if (log_map_ != nullptr) ::munmap(log_map_, log_bytes_);
}

void FrontEnd::Listen() {
  if (listener_ == nullptr) listener_ = std::make_unique<VhostListener>(options_.socket);
}

absl::Status FrontEnd::Accept(absl::Duration timeout) {
  Listen();
  auto connection = listener_->Accept(timeout);
  if (!connection.ok()) return connection.status();
  socket_ = VhostSocket(*std::move(connection));
  offered_ = offered_protocol_ = features_ = protocol_ = 0;
  return absl::OkStatus();
}

absl::Status FrontEnd::Connect(absl::Duration timeout) {
  if (auto s = Accept(timeout); !s.ok()) return s;
  if (auto s = Run(QemuConnectSteps(options_.queue_pairs)); !s.ok()) return s;
  return StartDriver();
}

absl::Status FrontEnd::StartDriver() {
  ResetDriver();
  return Run(QemuStartSteps(options_.queue_pairs));
}

absl::Status FrontEnd::Resume() {
  return Run(QemuStartSteps(options_.queue_pairs));
}
absl::Status FrontEnd::Stop() {
  return Run(QemuStopSteps(options_.queue_pairs));
}

void FrontEnd::Disconnect() {
  socket_.Close();
  backend_req_.reset();
}

void FrontEnd::ResetDriver() {
  rx_.clear();
  tx_.clear();
  memory_->Reset();
}

uint64_t FrontEnd::WantedFeatures() const {
  uint64_t wanted = Bit(kVersion1) | Bit(kVhostUserProtocolFeatures) | options_.offloads;
  if (options_.queue_pairs > 1) wanted |= Bit(kNetMq) | Bit(kNetCtrlVq);
  if (options_.packed) wanted |= Bit(kRingPacked);
  if (options_.mergeable) wanted |= Bit(kNetMrgRxbuf);
  if (options_.in_order) wanted |= Bit(kInOrder);
  if (options_.event_idx) wanted |= Bit(kRingEventIdx);
  return wanted | Bit(kRingIndirectDesc);  // chains choose for themselves
}

void FrontEnd::MakeDriver() {
  const RingOptions ring{.size = options_.ring_size,
                         .packed = (features_ & Bit(kRingPacked)) != 0,
                         .event_idx = (features_ & Bit(kRingEventIdx)) != 0,
                         .in_order = (features_ & Bit(kInOrder)) != 0};
  const uint32_t rx_bytes = options_.mergeable ? options_.rx_buffer : options_.max_frame + 12;
  for (unsigned pair = 0; pair < options_.queue_pairs; ++pair) {
    rx_.push_back(std::make_unique<RxQueue>(DriverRing::Make(ring, *memory_), *memory_, rx_bytes, options_.mergeable,
                                            options_.split_rx_header, options_.indirect));
    tx_.push_back(std::make_unique<TxQueue>(DriverRing::Make(ring, *memory_), *memory_, options_.max_frame));
    bases_[2 * pair] = rx_[pair]->ring().initial_base();
    bases_[2 * pair + 1] = tx_[pair]->ring().initial_base();
    rx_[pair]->ring().WantCalls(false);
    tx_[pair]->ring().WantCalls(false);
  }
}

absl::StatusOr<vhost_user::Message> FrontEnd::Ask(Request request, std::span<const uint8_t> payload) {
  if (auto s = socket_.Send(request, payload); !s.ok()) return s;
  auto reply = socket_.Receive(options_.reply_timeout);
  if (!reply.ok()) return reply.status();
  if (reply->request != request || !(reply->flags & vhost_user::kFlagReply)) {
    return absl::DataLossError(absl::StrCat("the answer is one to request ", static_cast<uint32_t>(reply->request)));
  }
  return reply;
}

absl::StatusOr<uint64_t> FrontEnd::AskU64(Request request) {
  auto reply = Ask(request);
  if (!reply.ok()) return reply.status();
  uint64_t value;
  if (reply->payload.size() != sizeof value)
    return absl::DataLossError(absl::StrCat("an answer of ", reply->payload.size(), " bytes"));
  std::memcpy(&value, reply->payload.data(), sizeof value);
  return value;
}

absl::Status FrontEnd::TellBytes(Request request, std::span<const uint8_t> payload, std::span<const int> fds,
                                 bool acknowledge) {
  acknowledge = acknowledge && reply_ack();
  const uint32_t flags = vhost_user::kVersion | (acknowledge ? vhost_user::kFlagNeedReply : 0);
  if (auto s = socket_.Send(request, payload, fds, flags); !s.ok() || !acknowledge) return s;
  auto reply = socket_.Receive(options_.reply_timeout);
  if (!reply.ok()) return reply.status();
  uint64_t value = 1;
  if (reply->request != request || reply->payload.size() != sizeof value)
    return absl::DataLossError("no acknowledgement");
  std::memcpy(&value, reply->payload.data(), sizeof value);
  return value == 0 ? absl::OkStatus() : absl::FailedPreconditionError(absl::StrCat("refused with ", value));
}

absl::Status FrontEnd::SetFeatures(uint64_t features) {
  features_ = features;
  return Tell(Request::kSetFeatures, features_);
}

absl::Status FrontEnd::Run(const std::vector<Step>& steps) {
  for (const Step& step : steps) {
    if (auto s = Run(step); !s.ok()) return s;
  }
  return absl::OkStatus();
}

absl::Status FrontEnd::Run(const Step& step) {
  auto take = [&](absl::StatusOr<uint64_t> answer, uint64_t* to) {
    if (answer.ok()) *to = *answer;
    return WithStep(answer.status(), step);
  };
  const bool status = protocol_ & Bit(vhost_user::kProtocolStatus);
  switch (step.kind) {
    case Step::kGetFeatures:
      return take(AskU64(Request::kGetFeatures), &offered_);
    case Step::kGetProtocolFeatures:
      return take(AskU64(Request::kGetProtocolFeatures), &offered_protocol_);
    case Step::kSetProtocolFeatures: {
      using namespace vhost_user;
      protocol_ = offered_protocol_ & (Bit(kProtocolMq) | Bit(kProtocolLogShmfd) | Bit(kProtocolRarp) |
                                       Bit(kProtocolReplyAck) | Bit(kProtocolMtu) | Bit(kProtocolBackendReq) |
                                       Bit(kProtocolConfig) | Bit(kProtocolResetDevice) | Bit(kProtocolStatus));
      return WithStep(Tell(Request::kSetProtocolFeatures, protocol_), step);
    }
    case Step::kGetQueueNum:
      if (!(protocol_ & Bit(vhost_user::kProtocolMq))) return absl::OkStatus();
      return take(AskU64(Request::kGetQueueNum), &queue_num_);
    case Step::kSetBackendReqFd: {
      if (!options_.backend_req || !(protocol_ & Bit(vhost_user::kProtocolBackendReq))) return absl::OkStatus();
      int ends[2];
      FAKES_REQUIRE(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) == 0);
      backend_req_.reset(ends[0]);
      const UniqueFd theirs(ends[1]);
      const int fds[] = {theirs.get()};
      return WithStep(TellBytes(Request::kSetBackendReqFd, {}, fds, true), step);
    }
    case Step::kSetOwner:
      return WithStep(TellBytes(Request::kSetOwner, {}), step);
    case Step::kSetFeatures: {
      const uint64_t log = logging_ ? Bit(kVhostLogAll) : 0;
      const absl::Status sent = SetFeatures(offered_ & (WantedFeatures() | log));
      if (rx_.empty()) MakeDriver();
      return WithStep(sent, step);
    }
    case Step::kGetStatus: {
      uint64_t ignored;
      return status ? take(AskU64(Request::kGetStatus), &ignored) : absl::OkStatus();
    }
    case Step::kSetStatus:
      return status ? WithStep(Tell(Request::kSetStatus, step.value), step) : absl::OkStatus();
    case Step::kSetMemTable:
      return WithStep(SendMemTable(), step);
    default:
      return WithStep(RunRingStep(step), step);
  }
}

absl::Status FrontEnd::RunRingStep(const Step& step) {
  const uint64_t index = step.ring;
  auto state = [&](uint32_t value) { return vhost_user::VringState{step.ring, value}; };
  auto with_fd = [&](Request request, const UniqueFd& fd) {
    const int fds[] = {fd.get()};
    return Tell(request, index, fds);
  };
  switch (step.kind) {
    case Step::kSetNum:
      return Tell(Request::kSetVringNum, state(options_.ring_size));
    case Step::kSetBase:
      return Tell(Request::kSetVringBase, state(bases_[index]));
    case Step::kSetAddr:
      return SetAddr(step.ring, false);
    case Step::kSetKick:
      return with_fd(Request::kSetVringKick, kick_[index]);
    case Step::kSetCall:
      return with_fd(Request::kSetVringCall, call_[index]);
    case Step::kSetErr:
      return with_fd(Request::kSetVringErr, err_[index]);
    case Step::kEnable:
      return Tell(Request::kSetVringEnable, state(1), {}, true);
    case Step::kDisable:
      return Tell(Request::kSetVringEnable, state(0), {}, true);
    case Step::kGetBase: {
      const vhost_user::VringState ask = state(0);
      auto reply = Ask(Request::kGetVringBase, {reinterpret_cast<const uint8_t*>(&ask), sizeof ask});
      if (!reply.ok()) return reply.status();
      vhost_user::VringState answer;
      if (reply->payload.size() != sizeof answer) return absl::DataLossError("an answer of the wrong size");
      std::memcpy(&answer, reply->payload.data(), sizeof answer);
      if (answer.index != index) return absl::DataLossError("the answer is about another ring");
      bases_[index] = answer.num;
      return absl::OkStatus();
    }
    default:
      return absl::InternalError("not a ring step");
  }
}

absl::Status FrontEnd::SetAddr(unsigned index, bool acknowledge) {
  const DriverRing& of = ring(index);
  // log_guest_addr as QEMU has it (hw/virtio/vhost.c), for a packed ring too: the device area.
  const vhost_user::VringAddr addr{.index = index,
                                   .flags = logging_ ? 1u : 0u,
                                   .desc_user_addr = memory_->Uva(of.desc_gpa()),
                                   .used_user_addr = memory_->Uva(of.device_gpa()),
                                   .avail_user_addr = memory_->Uva(of.driver_gpa()),
                                   .log_guest_addr = of.device_gpa()};
  return Tell(Request::kSetVringAddr, addr, {}, acknowledge);
}

absl::Status FrontEnd::SendMemTable() {
  const auto table = memory_->Table();
  const auto fds = memory_->Fds();
  std::vector<uint8_t> payload(8 + sizeof(vhost_user::MemoryRegion) * table.size());
  const uint32_t count = static_cast<uint32_t>(table.size());
  std::memcpy(payload.data(), &count, sizeof count);
  std::memcpy(payload.data() + 8, table.data(), sizeof(vhost_user::MemoryRegion) * table.size());
  return TellBytes(Request::kSetMemTable, payload, fds, true);
}

void FrontEnd::MakeLog() {
  log_bytes_ = (memory_->highest_gpa() / 4096 / 8 + 4096) & ~size_t{4095};
  log_fd_.reset(::memfd_create("everport-test-log", MFD_CLOEXEC));
  FAKES_REQUIRE(log_fd_.valid() && ::ftruncate(log_fd_.get(), static_cast<off_t>(log_bytes_)) == 0);
  void* map = ::mmap(nullptr, log_bytes_, PROT_READ | PROT_WRITE, MAP_SHARED, log_fd_.get(), 0);
  FAKES_REQUIRE(map != MAP_FAILED);
  log_map_ = static_cast<uint8_t*>(map);
}

// With LOG_SHMFD the back-end always answers SET_LOG_BASE.
absl::Status FrontEnd::SendLog() {
  const vhost_user::LogBase log{.mmap_size = log_bytes_, .mmap_offset = 0};
  const int fds[] = {log_fd_.get()};
  if (auto s = socket_.SendValue(Request::kSetLogBase, log, fds); !s.ok()) return s;
  return socket_.Receive(options_.reply_timeout).status();
}

absl::Status FrontEnd::RenewLog() {
  uint8_t* const before = std::exchange(log_map_, nullptr);
  MakeLog();
  absl::Status status = SendLog();
  for (size_t i = 0; i < log_bytes_; ++i) __atomic_fetch_or(&log_map_[i], before[i], __ATOMIC_RELAXED);
  ::munmap(before, log_bytes_);
  return status;
}

absl::Status FrontEnd::StartLog() {
  if (log_map_ == nullptr) MakeLog();
  std::memset(log_map_, 0, log_bytes_);
  if (auto s = SendLog(); !s.ok()) return s;
  logging_ = true;
  if (auto s = SetFeatures(features_ | Bit(kVhostLogAll)); !s.ok()) return s;
  for (unsigned index = 0; index < bases_.size(); ++index) {
    if (auto s = SetAddr(index, true); !s.ok()) return s;
  }
  return absl::OkStatus();
}

absl::Status FrontEnd::StopLog() {
  logging_ = false;
  if (auto s = SetFeatures(features_ & ~Bit(kVhostLogAll)); !s.ok()) return s;
  for (unsigned index = 0; index < bases_.size(); ++index) {
    if (auto s = SetAddr(index, false); !s.ok()) return s;
  }
  return absl::OkStatus();
}

absl::Status FrontEnd::SendRarp(const uint8_t mac[6]) {
  uint64_t value = 0;
  std::memcpy(&value, mac, 6);
  return Tell(Request::kSendRarp, value, {}, true);
}

absl::Status FrontEnd::SetMtu(uint16_t mtu) {
  return Tell(Request::kNetSetMtu, uint64_t{mtu}, {}, true);
}

void FrontEnd::Kick(unsigned index) {
  ++kicks_;
  const uint64_t one = 1;
  FAKES_REQUIRE(::write(kick_[index].get(), &one, sizeof one) == sizeof one || errno == EAGAIN);
}

void FrontEnd::FlushRx(unsigned pair) {
  if (rx_[pair]->Publish()) Kick(2 * pair);
}

void FrontEnd::FlushTx(unsigned pair) {
  if (tx_[pair]->Publish()) Kick(2 * pair + 1);
}

bool FrontEnd::WaitCall(unsigned index, absl::Duration timeout) {
  uint64_t count;
  return WaitFd(call_[index].get(), POLLIN, timeout) &&
         ::read(call_[index].get(), &count, sizeof count) == sizeof count;
}

RingAccount FrontEnd::TotalAccount() const {
  RingAccount total;
  auto add = [&](const RingAccount& one) {
    total.available += one.available;
    total.returned += one.returned;
    total.unknown += one.unknown;
    total.misordered += one.misordered;
  };
  for (const auto& queue : rx_) add(static_cast<const RxQueue&>(*queue).ring().account());
  for (const auto& queue : tx_) add(static_cast<const TxQueue&>(*queue).ring().account());
  return total;
}

}  // namespace everport::fakes
