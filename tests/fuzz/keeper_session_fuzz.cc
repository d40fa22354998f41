// A Session between a front-end, a daemon and guest memory that do as the input says. Each step is one byte that
// chooses, and what it needs. Besides not crashing, after every step:
//   - what is recorded keeps the rules: features within the contract, started rings inside memory;
//   - a front-end that is not read has a deadline running;
//   - nothing is left of a session that has ended.

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <vector>

#include "backend/keeper/memory_table.h"
#include "backend/keeper/session.h"

namespace everport {
namespace {

using vhost_user::Message;
using vhost_user::Request;

void Require(bool holds, const char* what) {
  if (holds) return;
  std::fprintf(stderr, "property does not hold: %s\n", what);
  std::abort();
}

class Input {
 public:
  Input(const uint8_t* data, size_t size) : data_(data), size_(size) {}
  bool empty() const { return size_ == 0; }
  uint8_t Byte() { return Take<uint8_t>(); }
  template <typename T>
  T Take() {
    T value{};
    const size_t n = std::min(sizeof value, size_);
    std::memcpy(&value, data_, n);
    data_ += n;
    size_ -= n;
    return value;
  }
  std::vector<uint8_t> Bytes(size_t n) {
    n = std::min(n, size_);
    std::vector<uint8_t> bytes(data_, data_ + n);
    data_ += n;
    size_ -= n;
    return bytes;
  }

 private:
  const uint8_t* data_;
  size_t size_;
};

// All files are one block of memory.
class FakeFiles final : public GuestFiles {
 public:
  absl::Status CheckEventFd(int) override { return absl::OkStatus(); }
  absl::StatusOr<uint64_t> Size(int) override {
    if (broken) return absl::UnavailableError("broken");
    return memory.size();
  }
  absl::Status Read(int, uint64_t offset, void* to, size_t bytes) override {
    if (broken || offset > memory.size() || bytes > memory.size() - offset) return absl::UnavailableError("short");
    std::memcpy(to, memory.data() + offset, bytes);
    return absl::OkStatus();
  }
  absl::Status Write(int, uint64_t offset, const void* from, size_t bytes) override {
    if (broken || offset > memory.size() || bytes > memory.size() - offset) return absl::UnavailableError("short");
    std::memcpy(memory.data() + offset, from, bytes);
    return absl::OkStatus();
  }
  std::vector<uint8_t> memory = std::vector<uint8_t>(64 * 1024);
  bool broken = false;
};

constexpr uint64_t kUva = 0x10000000, kGpa = 0x1000;

FeatureContract Contract() {
  FeatureContract contract = *FindContract("everport-1");
  contract.protocol_features |= uint64_t{1} << vhost_user::kProtocolConfig;
  contract.max_ring_size = 256;
  return WithPostcopy(contract, true);
}

class World {
 public:
  explicit World(Input input)
      : input_(input), session_({"p", "/p", 2, 1500, "everport-1"}, Contract(), page_.get(), &files_) {}

  void Run() {
    for (int steps = 0; !input_.empty() && steps < 200; ++steps) {
      Step();
      Check();
    }
  }

 private:
  void Step() {
    switch (input_.Byte() % 16) {
      case 0:
        return Connect();
      case 1:
        return Say(Arbitrary());
      case 2:
        return Negotiate();
      case 3:
        return Say(MemTable());
      case 4:
        return StartRing();
      case 5:
        return SayState(Request::kGetVringBase, input_.Byte() % 4, 0);
      case 6:
        return SayState(Request::kSetVringEnable, input_.Byte() % 4, input_.Byte() & 1);
      case 7:
        return Apply(session_.FrontendGone("gone"));
      case 8:
        if (session_.daemon_welcome()) Apply(session_.DaemonConnected());
        return;
      case 9:
        return AnswerAll();
      case 10:
        return AnswerOne();
      case 11:
        return Apply(session_.DaemonMessage(Arbitrary()));
      case 12:
        return Apply(session_.DaemonGone("gone"));
      case 13:
        if (armed_) Apply(session_.Deadline());
        return;
      case 14:
        return WriteIndexPage();
      case 15:
        return WriteMemory();
    }
  }

  void Connect() {
    if (!session_.frontend_connected()) Apply(session_.FrontendConnected());
  }
  void Say(Message message) {
    if (session_.frontend_connected() && !session_.frontend_paused())
      Apply(session_.FrontendMessage(std::move(message)));
  }
  void SayState(Request request, uint32_t ring, uint32_t num) {
    Say(vhost_user::MakeMessage(request, vhost_user::kFlagNeedReply, vhost_user::VringState{ring, num}));
  }
  void AddFd(Message& message) { message.fds.emplace_back(::fcntl(any_, F_DUPFD_CLOEXEC, 0)); }
  Message Arbitrary() {
    Message message;
    message.request = static_cast<Request>(input_.Byte() % 48);
    message.flags = input_.Byte();
    for (unsigned n = input_.Byte() % 9; n > 0; --n) AddFd(message);
    message.payload = input_.Bytes(input_.Byte());
    return message;
  }
  void Negotiate() {
    const uint64_t protocol = Contract().protocol_features & ~uint64_t{input_.Byte()};
    Say(vhost_user::MakeMessage(Request::kSetProtocolFeatures, 0, protocol));
    // Bits 16 and up hold what matters here: LOG_ALL, PROTOCOL_FEATURES, PACKED, IN_ORDER.
    const uint64_t features = Contract().features & (uint64_t{input_.Take<uint32_t>()} << 16 | uint64_t{1} << 30);
    Say(vhost_user::MakeMessage(Request::kSetFeatures, vhost_user::kFlagNeedReply, features));
  }
  Message MemTable() {
    std::vector<vhost_user::MemoryRegion> regions;
    const unsigned count = 1 + input_.Byte() % 2;
    for (unsigned i = 0; i < count; ++i)
      regions.push_back({kGpa + i * 0x100000, 32 * 1024, kUva + i * 0x100000, i * 32 * 1024});
    Message message = vhost_user::EncodeMemTable(regions, vhost_user::kFlagNeedReply);
    for (unsigned i = 0; i < count; ++i) AddFd(message);
    return message;
  }
  void StartRing() {
    const uint32_t ring = input_.Byte() % 4;
    const uint32_t num = input_.Byte();
    const uint64_t base = kUva + (ring & 1) * 0x2000;
    SayState(Request::kSetVringNum, ring, num);
    SayState(Request::kSetVringBase, ring, input_.Take<uint16_t>());
    Say(vhost_user::MakeMessage(Request::kSetVringAddr, vhost_user::kFlagNeedReply,
                                vhost_user::VringAddr{ring, 0, base, base + 0x1000, base + 0x1800, 0}));
    Message kick = vhost_user::MakeMessage(Request::kSetVringKick, vhost_user::kFlagNeedReply, uint64_t{ring});
    AddFd(kick);
    Say(std::move(kick));
  }
  void WriteIndexPage() {
    IndexPageVring& vring = page_->vrings[input_.Byte() % 4];
    const unsigned chains = input_.Byte() % 8;
    for (unsigned i = 0; i < chains; ++i) {
      vring.chains[i] = input_.Take<IndexPageChain>();
      if (input_.Byte() & 1) vring.chains[i].slots %= 4;
    }
    vring.head = IndexPageHead(input_.Take<uint16_t>(), input_.Byte() & 128 ? 0xffff : static_cast<uint16_t>(chains));
  }
  void WriteMemory() {
    files_.broken = input_.Byte() == 0xff;
    const uint16_t at = input_.Take<uint16_t>();
    const std::vector<uint8_t> bytes = input_.Bytes(input_.Byte() % 32);
    for (size_t i = 0; i < bytes.size() && at + i < files_.memory.size(); ++i) files_.memory[at + i] = bytes[i];
  }
  void AnswerOne() {
    if (owed_.empty() || !session_.daemon_attached()) return;
    const Request request = owed_.front();
    owed_.erase(owed_.begin());
    const uint8_t how = input_.Byte();
    if (request == Request::kGetVringBase) {
      const vhost_user::VringState state{how % 4u, how * 3u};
      return Apply(session_.DaemonMessage(vhost_user::MakeMessage(request, vhost_user::kFlagReply, state)));
    }
    if (request == Request::kPostcopyAdvise && how != 0xff) {
      Message reply = vhost_user::MakeMessage(request, vhost_user::kFlagReply);
      for (unsigned n = how == 0xfe ? 2 : 1; n > 0; --n) AddFd(reply);
      return Apply(session_.DaemonMessage(std::move(reply)));
    }
    if (request == Request::kSetMemTable && session_.record().listening() && how != 0xff) {
      std::vector<vhost_user::MemoryRegion> regions;
      for (const RecordedRegion& recorded : session_.record().memory) regions.push_back(recorded.region);
      if (how == 0xfe) regions.pop_back();
      return Apply(session_.DaemonMessage(vhost_user::EncodeMemTable(regions, vhost_user::kFlagReply)));
    }
    const bool query = request == Request::kGetFeatures || request == Request::kGetProtocolFeatures ||
                       request == Request::kGetQueueNum;
    const uint64_t value = query ? (how == 0xff ? how : ~uint64_t{0}) : (how == 0xff ? 1 : 0);
    Apply(session_.DaemonMessage(vhost_user::MakeReply(request, value)));
  }
  void AnswerAll() {
    for (int i = 0; i < 100 && !owed_.empty() && session_.daemon_attached(); ++i) AnswerOne();
  }

  void Apply(Actions actions) {
    for (Action& action : actions) {
      if (auto* send = std::get_if<SendToDaemon>(&action)) {
        const vhost_user::RequestRule* rule = vhost_user::FindRule(send->message.request);
        Require(rule != nullptr, "only known messages go to a daemon");
        if (send->message.need_reply() || rule->always_answered) owed_.push_back(send->message.request);
      } else if (auto* close = std::get_if<CloseDaemon>(&action)) {
        Require(!close->reason.empty(), "a daemon is closed for a reason");
        owed_.clear();
      } else if (auto* end = std::get_if<CloseFrontend>(&action)) {
        Require(!end->reason.empty(), "a session ends for a reason");
      } else if (std::holds_alternative<ArmDeadline>(action)) {
        armed_ = true;
      } else if (std::holds_alternative<DisarmDeadline>(action)) {
        armed_ = false;
      }
    }
    if (!session_.daemon_attached()) owed_.clear();
  }

  void Check() {
    const SessionRecord& record = session_.record();
    Require((session_.state() == SessionState::kWaiting) == !session_.frontend_connected(), "state");
    Require(!session_.frontend_paused() || armed_, "a front-end that is not read has a deadline");
    Require(!record.listening() || !session_.daemon_welcome(), "no daemon comes while post-copy is under way");
    Require(!record.listening() || session_.frontend_connected(), "no post-copy without a front-end");
    Require((record.features & ~Contract().features) == 0, "features within the contract");
    for (unsigned ring = 0; ring < record.vrings.size(); ++ring) {
      const VringRecord& vring = record.vrings[ring];
      Require(ring < 4 || (!vring.addr && vring.num == 0 && !vring.started()), "only the port's rings are recorded");
      if (!vring.started()) continue;
      Require(vring.addr.has_value(), "a started ring has an address");
      Require(CheckRing(record.memory, *vring.addr, vring.num, record.packed()).ok(), "a started ring is in memory");
    }
    if (session_.frontend_connected()) return;
    Require(record.memory.empty() && !record.any_started() && !record.log, "nothing is left of an ended session");
    Require(!session_.daemon_synced(), "no daemon holds an ended session");
  }

  static inline const int any_ = ::open("/dev/null", O_RDONLY | O_CLOEXEC);
  Input input_;
  std::unique_ptr<IndexPage> page_ = std::make_unique<IndexPage>();
  FakeFiles files_;
  Session session_;
  std::vector<Request> owed_;
  bool armed_ = false;
};

}  // namespace
}  // namespace everport

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  everport::World(everport::Input(data, size)).Run();
  return 0;
}
