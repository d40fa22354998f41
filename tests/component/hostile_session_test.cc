// A front-end that breaks the vhost-user rules: its session ends with a reason in the log; the pair of ports beside it
// loses no frame; keeper and daemon live on and have no descriptor and no mapping more than before.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <cstring>
#include <functional>
#include <memory>

#include "absl/strings/str_cat.h"
#include "tests/component/bystanders.h"
#include "tests/component/stack.h"
#include "tests/fakes/traffic.h"

namespace everport::component {
namespace {

using fakes::Bit;
using fakes::FrontEnd;
using fakes::FrontEndOptions;
using fakes::Step;
using vhost_user::MemoryRegion;
using vhost_user::Request;

constexpr unsigned kPairs = 2;  // of the victim port

struct Attack {
  const char* name;
  // A front-end that has connected and gone through QemuConnectSteps; and, if running, has started its rings.
  bool running;
  std::function<void(FrontEnd&)> act;
};

// Sends a message and does not care whether the peer is still there.
void Throw(FrontEnd& end, Request request, std::span<const uint8_t> payload, std::vector<int> fds = {},
           uint32_t flags = vhost_user::kVersion) {
  (void)end.socket().Send(request, payload, fds, flags);
}
template <typename T>
void ThrowValue(FrontEnd& end, Request request, const T& value, std::vector<int> fds = {}) {
  (void)end.socket().SendValue(request, value, fds);
}
void ThrowHeader(FrontEnd& end, uint32_t request, uint32_t flags, uint32_t size) {
  const vhost_user::Header header{request, flags, size};
  (void)end.socket().SendBytes({reinterpret_cast<const uint8_t*>(&header), sizeof header});
}
void ThrowTable(FrontEnd& end, const std::vector<MemoryRegion>& table, std::vector<int> fds, int64_t count = -1) {
  std::vector<uint8_t> payload(8 + sizeof(MemoryRegion) * table.size());
  const uint32_t n = count < 0 ? static_cast<uint32_t>(table.size()) : static_cast<uint32_t>(count);
  std::memcpy(payload.data(), &n, sizeof n);
  if (!table.empty()) std::memcpy(payload.data() + 8, table.data(), sizeof(MemoryRegion) * table.size());
  Throw(end, Request::kSetMemTable, payload, std::move(fds));
}
// The victim's memory table with one thing changed.
void ThrowChangedTable(FrontEnd& end, const std::function<void(std::vector<MemoryRegion>&)>& change) {
  auto table = end.memory().Table();
  change(table);
  ThrowTable(end, table, end.memory().Fds());
}
void ThrowAddr(FrontEnd& end, unsigned ring, const std::function<void(vhost_user::VringAddr&)>& change) {
  vhost_user::VringAddr addr{.index = ring,
                             .flags = 0,
                             .desc_user_addr = end.memory().Uva(end.ring(ring).desc_gpa()),
                             .used_user_addr = end.memory().Uva(end.ring(ring).device_gpa()),
                             .avail_user_addr = end.memory().Uva(end.ring(ring).driver_gpa()),
                             .log_guest_addr = 0};
  change(addr);
  ThrowValue(end, Request::kSetVringAddr, addr);
}
std::vector<int> ManyFds(const FrontEnd& end, size_t count) {
  return std::vector<int>(count, end.call_fd(0));
}

const uint64_t kHuge = ~uint64_t{4095};

void PrintTo(const Attack* attack, std::ostream* out) {
  *out << attack->name;
}

const Attack kAttacks[] = {
    // Framing.
    {"LengthTooLong", false, [](FrontEnd& e) { ThrowHeader(e, 2, 1, 0x7fffffff); }},
    {"LengthJustTooLong", false, [](FrontEnd& e) { ThrowHeader(e, 2, 1, vhost_user::kMaxPayload + 1); }},
    {"SetFeaturesTooShort", false, [](FrontEnd& e) { ThrowValue(e, Request::kSetFeatures, uint32_t{0}); }},
    {"SetFeaturesTooLong", false, [](FrontEnd& e) { Throw(e, Request::kSetFeatures, std::vector<uint8_t>(16)); }},
    {"SetMemTableCutShort", false, [](FrontEnd& e) { ThrowTable(e, {}, e.memory().Fds(), 1); }},
    {"VringAddrTooShort", true, [](FrontEnd& e) { Throw(e, Request::kSetVringAddr, std::vector<uint8_t>(8)); }},
    {"WrongVersion", false, [](FrontEnd& e) { ThrowHeader(e, 1, 2, 0); }},
    {"AReplyNobodyAskedFor", false, [](FrontEnd& e) { ThrowHeader(e, 1, 1 | vhost_user::kFlagReply, 0); }},
    {"HalfAHeader", false,
     [](FrontEnd& e) {
       const uint8_t half[] = {1, 0, 0, 0, 1};
       (void)e.socket().SendBytes(half);
     }},
    {"HalfAMessage", false, [](FrontEnd& e) { ThrowHeader(e, 2, 1, 8); }},
    {"HalfAMessageWithFds", false,
     [](FrontEnd& e) {
       const vhost_user::Header header{5, 1, 40};
       (void)e.socket().SendBytes({reinterpret_cast<const uint8_t*>(&header), sizeof header}, e.memory().Fds());
     }},
    // Descriptors.
    {"FdsWhereThereAreNone", false,
     [](FrontEnd& e) { ThrowValue(e, Request::kSetFeatures, uint64_t{0}, ManyFds(e, 1)); }},
    {"KickWithoutFd", false, [](FrontEnd& e) { ThrowValue(e, Request::kSetVringKick, uint64_t{0}); }},
    {"KickWithTwoFds", false, [](FrontEnd& e) { ThrowValue(e, Request::kSetVringKick, uint64_t{0}, ManyFds(e, 2)); }},
    {"FewerFdsThanRegions", false,
     [](FrontEnd& e) {
       auto table = e.memory().Table();
       table.push_back(table[0]);
       table[1].guest_phys_addr += kHuge / 4;
       table[1].userspace_addr += kHuge / 4;
       ThrowTable(e, table, e.memory().Fds());
     }},
    {"MoreFdsThanRegions", false, [](FrontEnd& e) { ThrowTable(e, e.memory().Table(), ManyFds(e, 5)); }},
    {"FdFlood", false,
     [](FrontEnd& e) {
       for (int i = 0; i < 200; ++i) ThrowValue(e, Request::kSetVringCall, uint64_t{0}, ManyFds(e, 253));
     }},
    {"FdFloodInHalfAMessage", false,
     [](FrontEnd& e) {
       const vhost_user::Header header{5, 1, 40};
       (void)e.socket().SendBytes({reinterpret_cast<const uint8_t*>(&header), sizeof header});
       const uint8_t byte = 0;
       for (int i = 0; i < 39; ++i) (void)e.socket().SendBytes({&byte, 1}, ManyFds(e, 253));
     }},
    // Memory.
    {"NineRegions", false,
     [](FrontEnd& e) {
       std::vector<MemoryRegion> table(9, e.memory().Table()[0]);
       for (size_t i = 0; i < table.size(); ++i) {
         table[i].memory_size = 1 << 20;
         table[i].guest_phys_addr = i << 30;
         table[i].userspace_addr += i << 30;
       }
       ThrowTable(e, table, std::vector<int>(9, e.memory().Fds()[0]));
     }},
    {"NoRegion", true, [](FrontEnd& e) { ThrowTable(e, {}, {}); }},
    {"OverlappingGuestAddresses", false,
     [](FrontEnd& e) {
       auto table = e.memory().Table();
       table.push_back(table[0]);
       table[1].guest_phys_addr += table[0].memory_size - 4096;
       table[1].userspace_addr += 1ull << 40;
       ThrowTable(e, table, {e.memory().Fds()[0], e.memory().Fds()[0]});
     }},
    {"OverlappingUserAddresses", false,
     [](FrontEnd& e) {
       auto table = e.memory().Table();
       table.push_back(table[0]);
       table[1].guest_phys_addr += 1ull << 40;
       ThrowTable(e, table, {e.memory().Fds()[0], e.memory().Fds()[0]});
     }},
    {"UnalignedRegion", false, [](FrontEnd& e) { ThrowChangedTable(e, [](auto& t) { t[0].guest_phys_addr += 1; }); }},
    {"UnalignedOffset", false, [](FrontEnd& e) { ThrowChangedTable(e, [](auto& t) { t[0].mmap_offset += 1; }); }},
    {"EmptyRegion", false, [](FrontEnd& e) { ThrowChangedTable(e, [](auto& t) { t[0].memory_size = 0; }); }},
    {"RegionThatWraps", false, [](FrontEnd& e) { ThrowChangedTable(e, [](auto& t) { t[0].memory_size = kHuge; }); }},
    {"UserAddressThatWraps", false,
     [](FrontEnd& e) { ThrowChangedTable(e, [](auto& t) { t[0].userspace_addr = kHuge; }); }},
    {"OffsetPlusSizeWraps", false,
     [](FrontEnd& e) { ThrowChangedTable(e, [](auto& t) { t[0].mmap_offset = kHuge; }); }},
    {"RegionLongerThanItsFile", false,
     [](FrontEnd& e) { ThrowChangedTable(e, [](auto& t) { t[0].memory_size += 1 << 30; }); }},
    {"RegionThatIsNoFile", false,
     [](FrontEnd& e) { ThrowTable(e, e.memory().Table(), ManyFds(e, e.memory().Fds().size())); }},
    // Rings.
    {"RingIndexOutOfRange", false,
     [](FrontEnd& e) {
       ThrowValue(e, Request::kSetVringNum, vhost_user::VringState{2 * kPairs, 256});
     }},
    {"RingIndexFarOutOfRange", false,
     [](FrontEnd& e) {
       ThrowValue(e, Request::kSetVringBase, vhost_user::VringState{0xffffffff, 0});
     }},
    {"GetBaseOutOfRange", true,
     [](FrontEnd& e) {
       ThrowValue(e, Request::kGetVringBase, vhost_user::VringState{200, 0});
     }},
    {"KickIndexOutOfRange", false,
     [](FrontEnd& e) { ThrowValue(e, Request::kSetVringKick, uint64_t{0xff}, ManyFds(e, 1)); }},
    {"EnableOutOfRange", false,
     [](FrontEnd& e) {
       ThrowValue(e, Request::kSetVringEnable, vhost_user::VringState{77, 1});
     }},
    {"RingSizeZero", false,
     [](FrontEnd& e) {
       ThrowValue(e, Request::kSetVringNum, vhost_user::VringState{0, 0});
     }},
    {"RingSizeTooBig", false,
     [](FrontEnd& e) {
       ThrowValue(e, Request::kSetVringNum, vhost_user::VringState{0, 65536});
     }},
    {"RingOutsideMemory", true, [](FrontEnd& e) { ThrowAddr(e, 0, [](auto& a) { a.desc_user_addr = 0x1000; }); }},
    {"RingRunsOutOfMemory", true,
     [](FrontEnd& e) {
       const MemoryRegion last = e.memory().Table().back();
       ThrowAddr(e, 1, [&](auto& a) { a.used_user_addr = last.userspace_addr + last.memory_size - 16; });
     }},
    {"UnalignedRing", true, [](FrontEnd& e) { ThrowAddr(e, 0, [](auto& a) { a.desc_user_addr += 1; }); }},
    {"UnalignedUsedRing", true, [](FrontEnd& e) { ThrowAddr(e, 0, [](auto& a) { a.used_user_addr += 2; }); }},
    // Order.
    {"AddrBeforeMemory", false,
     [](FrontEnd& e) {
       ThrowValue(e, Request::kSetVringAddr, vhost_user::VringAddr{0, 0, 4096, 8192, 12288, 0});
     }},
    {"FeaturesNeverOffered", false, [](FrontEnd& e) { ThrowValue(e, Request::kSetFeatures, ~uint64_t{0}); }},
    {"ProtocolFeaturesNeverOffered", false,
     [](FrontEnd& e) { ThrowValue(e, Request::kSetProtocolFeatures, ~uint64_t{0}); }},
    {"LogBaseWithoutFd", true,
     [](FrontEnd& e) {
       ThrowValue(e, Request::kSetLogBase, vhost_user::LogBase{4096, 0});
     }},
    {"LogBaseTooSmallForItsFile", true,
     [](FrontEnd& e) {
       ThrowValue(e, Request::kSetLogBase, vhost_user::LogBase{kHuge, 0}, {e.memory().Fds()[0]});
     }},
};

class HostileSession : public testing::TestWithParam<const Attack*> {
 protected:
  static void SetUpTestSuite() {
    stack_ = new Stack();
    stack_->AddWire("victim", "friend", kPairs);
    stack_->AddWire("left", "right");
    const absl::Status started = stack_->Start();
    ASSERT_TRUE(started.ok()) << started;
    bystanders_ = new Bystanders(*stack_, "left", "right");
  }
  static void TearDownTestSuite() {
    delete bystanders_;
    delete stack_;
    bystanders_ = nullptr;
    stack_ = nullptr;
  }
  static FrontEndOptions Options() {
    return {.socket = stack_->Socket("victim"), .queue_pairs = kPairs, .packed = false};
  }

  static Stack* stack_;
  static Bystanders* bystanders_;
};
Stack* HostileSession::stack_ = nullptr;
Bystanders* HostileSession::bystanders_ = nullptr;

// A good guest on the attacked port: it can use it, and leaves it.
void GoodSession(const Stack& stack, const FrontEndOptions& options) {
  FrontEnd good(options);
  const absl::Status connected = good.Connect(absl::Seconds(10));
  ASSERT_TRUE(connected.ok()) << connected << "\n" << stack.Logs();
  const absl::Status stopped = good.Stop();
  EXPECT_TRUE(stopped.ok()) << stopped << "\n" << stack.Logs();
}

TEST_P(HostileSession, EndsAloneWithAReason) {
  const Attack& attack = *GetParam();
  ASSERT_TRUE(bystanders_->ready()) << stack_->Logs();
  GoodSession(*stack_, Options());
  const Footprint before = bystanders_->Settle();
  const size_t keeper_log = stack_->keeper().log().size();
  {
    FrontEnd hostile(Options());
    ASSERT_TRUE(hostile.Accept(absl::Seconds(10)).ok()) << stack_->Logs();
    ASSERT_TRUE(hostile.Run(fakes::QemuConnectSteps(kPairs)).ok()) << stack_->Logs();
    if (attack.running) {
      ASSERT_TRUE(hostile.StartDriver().ok()) << stack_->Logs();
    }
    attack.act(hostile);
    // Bystanders run on while we wait.
    EXPECT_TRUE(bystanders_->RunUntil([&] { return hostile.socket().closed(); }, absl::Seconds(20)))
        << "the session was not ended\n"
        << stack_->Logs();
    EXPECT_TRUE(stack_->keeper().WaitLog("victim: ", absl::Seconds(2), keeper_log)) << "no reason in the keeper's log";
  }
  GoodSession(*stack_, Options());
  EXPECT_EQ(bystanders_->Loss(), "") << stack_->Logs();
  EXPECT_TRUE(stack_->keeper().running()) << stack_->Logs();
  EXPECT_TRUE(stack_->daemon().running()) << stack_->Logs();
  EXPECT_EQ(bystanders_->Growth(before), "");
}

std::vector<const Attack*> AllAttacks() {
  std::vector<const Attack*> all;
  for (const Attack& attack : kAttacks) all.push_back(&attack);
  return all;
}
INSTANTIATE_TEST_SUITE_P(All, HostileSession, testing::ValuesIn(AllAttacks()),
                         [](const auto& test) { return std::string(test.param->name); });

// The file behind a region is cut short while the rings run: touching such a page is SIGBUS, for whoever does it.
TEST_F(HostileSession, MemoryThatIsTakenAwayUnderTheDaemon) {
  ASSERT_TRUE(bystanders_->ready()) << stack_->Logs();
  const FrontEndOptions peer_options{.socket = stack_->Socket("friend"), .queue_pairs = kPairs};
  GoodSession(*stack_, Options());
  GoodSession(*stack_, peer_options);
  const Footprint before = bystanders_->Settle();
  {
    FrontEndOptions options = Options();
    options.regions = 2;
    FrontEnd hostile(options), peer(peer_options);
    ASSERT_TRUE(hostile.Connect(absl::Seconds(10)).ok()) << stack_->Logs();
    ASSERT_TRUE(peer.Connect(absl::Seconds(10)).ok()) << stack_->Logs();
    fakes::Flow there(hostile, peer, 1), back(peer, hostile, 2);
    fakes::Flow* const flows[] = {&there, &back};
    ASSERT_TRUE(RunUntil(
        flows, [&] { return there.ledger().received > 500 && back.ledger().received > 500; }, absl::Seconds(10)))
        << stack_->Logs();
    // From here on our side touches only the peer's memory: the rings of the hostile one are full of work.
    hostile.memory().Truncate(0, 0);
    hostile.memory().Truncate(1, 0);
    for (unsigned pair = 0; pair < kPairs; ++pair) {
      hostile.Kick(2 * pair);
      hostile.Kick(2 * pair + 1);
    }
    std::vector<uint8_t> frame(200);
    fakes::FillTestFrame(frame, 9, 9);
    auto push = [&] {
      for (unsigned pair = 0; pair < kPairs; ++pair) {
        peer.tx(pair).PollUsed();
        peer.tx(pair).Send(frame);
        peer.FlushTx(pair);
      }
    };
    // Either it is thrown out, or nothing happens: a second of the daemon's touching that memory shows.
    const absl::Time until = absl::Now() + absl::Seconds(1);
    bystanders_->RunUntil(
        [&] {
          push();
          return absl::Now() > until || !stack_->daemon().running();
        },
        absl::Seconds(5));
    ASSERT_TRUE(stack_->daemon().running()) << "killed by SIGBUS?\n" << stack_->Logs();
    ASSERT_TRUE(stack_->keeper().running()) << stack_->Logs();
  }
  GoodSession(*stack_, Options());
  EXPECT_EQ(bystanders_->Loss(), "") << stack_->Logs();
  EXPECT_EQ(bystanders_->Growth(before), "");
}

// What costs the front-end next to nothing must not cost the daemon its connection to the keeper, or fill the logs.
TEST_F(HostileSession, AnnouncementsWithoutEnd) {
  constexpr int kAtOnce = 500, kAll = 100'000;
  ASSERT_TRUE(bystanders_->ready()) << stack_->Logs();
  GoodSession(*stack_, Options());
  const size_t daemon_log = stack_->daemon().log().size(), keeper_log = stack_->keeper().log().size();
  const int64_t sessions = stack_->PortNumber("left", "sessions");
  {
    FrontEnd hostile(Options());
    ASSERT_TRUE(hostile.Connect(absl::Seconds(10)).ok()) << stack_->Logs();
    int sent = 0;
    EXPECT_TRUE(bystanders_->RunUntil(
        [&] {
          for (int i = 0; i < kAtOnce; ++i) ThrowValue(hostile, Request::kSendRarp, uint64_t{0x0200ee005452});
          return (sent += kAtOnce) >= kAll;
        },
        absl::Seconds(60)));
    EXPECT_TRUE(hostile.Ask(Request::kGetFeatures).ok()) << stack_->Logs();  // the keeper is through
  }
  GoodSession(*stack_, Options());
  EXPECT_EQ(bystanders_->Loss(), "") << stack_->Logs();
  EXPECT_EQ(stack_->PortNumber("left", "sessions"), sessions);
  const std::string daemon_said = stack_->daemon().log().substr(daemon_log);
  EXPECT_EQ(daemon_said.find("keeper not connected"), std::string::npos);
  constexpr size_t kMost = size_t{kAll} * 20;  // a line for each would be five times that
  EXPECT_LT(daemon_said.size(), kMost) << daemon_said.substr(0, 1000);
  EXPECT_LT(stack_->keeper().log().size() - keeper_log, kMost);
}

// What is refused is told in the keeper's log, but not each time.
TEST_F(HostileSession, RefusalsWithoutEnd) {
  constexpr int kAll = 20'000;
  ASSERT_TRUE(bystanders_->ready()) << stack_->Logs();
  GoodSession(*stack_, Options());
  const size_t keeper_log = stack_->keeper().log().size();
  {
    FrontEnd hostile(Options());
    ASSERT_TRUE(hostile.Connect(absl::Seconds(10)).ok()) << stack_->Logs();
    int sent = 0;
    EXPECT_TRUE(bystanders_->RunUntil(
        [&] {
          for (int i = 0; i < 500; ++i) ThrowValue(hostile, Request::kNetSetMtu, uint64_t{1});
          return (sent += 500) >= kAll;
        },
        absl::Seconds(60)));
    EXPECT_TRUE(hostile.Ask(Request::kGetFeatures).ok()) << stack_->Logs();  // the keeper is through
  }
  GoodSession(*stack_, Options());
  EXPECT_EQ(bystanders_->Loss(), "") << stack_->Logs();
  const std::string said = stack_->keeper().log().substr(keeper_log);
  EXPECT_NE(said.find("NET_SET_MTU: 1 is refused"), std::string::npos) << said;
  EXPECT_LT(said.size(), size_t{kAll}) << said.substr(0, 1000);  // a line for each would be many times that
}

// A hundred front-ends in a row that get half way and leave.
TEST_F(HostileSession, HalfHandshakesWithoutEnd) {
  ASSERT_TRUE(bystanders_->ready()) << stack_->Logs();
  GoodSession(*stack_, Options());
  const Footprint before = bystanders_->Settle();
  auto steps = fakes::QemuConnectSteps(kPairs);
  const auto start = fakes::QemuStartSteps(kPairs);
  steps.insert(steps.end(), start.begin(), start.end());
  for (size_t length = 0; length <= steps.size(); ++length) {
    FrontEnd half(Options());
    ASSERT_TRUE(half.Accept(absl::Seconds(10)).ok()) << stack_->Logs();
    const absl::Status ran = half.Run(std::vector<Step>(steps.begin(), steps.begin() + static_cast<long>(length)));
    EXPECT_TRUE(ran.ok()) << ran << " after " << length << "\n" << stack_->Logs();
    bystanders_->RunUntil([] { return true; }, absl::Seconds(1));
  }
  GoodSession(*stack_, Options());
  EXPECT_EQ(bystanders_->Loss(), "") << stack_->Logs();
  EXPECT_EQ(bystanders_->Growth(before), "");
}

}  // namespace
}  // namespace everport::component
