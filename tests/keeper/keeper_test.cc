// The everport-keeper program between front-ends of our own and a daemon that does what librte_vhost does.

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <memory>
#include <optional>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/time/clock.h"
#include "backend/keeper/control_protocol.h"
#include "backend/keeper/index_page.h"
#include "backend/keeper/unix_socket.h"
#include "tests/fakes/front_end.h"
#include "tests/fakes/process.h"
#include "tests/fakes/temp_dir.h"
#include "tests/keeper/fake_daemon.h"

namespace everport {
namespace {

using fakes::FrontEnd;
using fakes::FrontEndOptions;
using fakes::Process;
using fakes::TempDir;
using testing::Contains;
using testing::HasSubstr;
using vhost_user::Request;

constexpr absl::Duration kWait = absl::Seconds(10);

// A client of keeper.sock.
class Control {
 public:
  Control(const std::string& path, const std::string& daemon) {
    absl::StatusOr<UniqueFd> fd = ConnectUnix(path, SOCK_SEQPACKET);
    EXPECT_TRUE(fd.ok()) << fd.status();
    if (fd.ok()) fd_ = *std::move(fd);
    EXPECT_TRUE(Ask(HelloRequest{kControlVersion, daemon}).ok);
  }
  ControlReply Ask(const ControlRequest& request) { return AskText(EncodeRequest(request)); }
  bool Tell(const ControlRequest& request) {  // and leaves the answer to Event()
    const std::string text = EncodeRequest(request);
    return ::send(fd_.get(), text.data(), text.size(), MSG_NOSIGNAL) == static_cast<ssize_t>(text.size()) ||
           (errno == EAGAIN && fakes::WaitFd(fd_.get(), POLLOUT, kWait) && Tell(request));
  }
  ControlReply AskText(const std::string& text) {
    EXPECT_EQ(::send(fd_.get(), text.data(), text.size(), MSG_NOSIGNAL), static_cast<ssize_t>(text.size()));
    for (;;) {
      std::optional<ControlMessage> message = Next();
      if (!message) return {false, "no answer", {}, {}};
      if (auto* reply = std::get_if<ControlReply>(&*message)) return *reply;
      events.push_back(*message);
    }
  }
  // Waits for the next event.
  std::optional<ControlMessage> Event() {
    if (!events.empty()) {
      ControlMessage first = events.front();
      events.erase(events.begin());
      return first;
    }
    return Next();
  }
  bool WaitState(const std::string& port, SessionState state) {
    while (const auto event = Event()) {
      const auto* session = std::get_if<SessionEvent>(&*event);
      if (session && session->name == port && session->state == state) return true;
    }
    return false;
  }

  std::vector<ControlMessage> events;
  UniqueFd last_fd;

 private:
  std::optional<ControlMessage> Next() {
    if (!fakes::WaitFd(fd_.get(), POLLIN, kWait)) return std::nullopt;
    std::string buffer(kMaxControlMessage, '\0');
    iovec part{buffer.data(), buffer.size()};
    alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))];
    msghdr header{};
    header.msg_iov = &part;
    header.msg_iovlen = 1;
    header.msg_control = control;
    header.msg_controllen = sizeof control;
    const ssize_t n = ::recvmsg(fd_.get(), &header, MSG_CMSG_CLOEXEC);
    if (n <= 0) return std::nullopt;
    for (cmsghdr* c = CMSG_FIRSTHDR(&header); c; c = CMSG_NXTHDR(&header, c)) {
      int fd;
      std::memcpy(&fd, CMSG_DATA(c), sizeof fd);
      last_fd.reset(fd);
    }
    absl::StatusOr<ControlMessage> message = DecodeMessage({buffer.data(), static_cast<size_t>(n)});
    EXPECT_TRUE(message.ok()) << message.status();
    if (!message.ok()) return std::nullopt;
    return *std::move(message);
  }
  UniqueFd fd_;
};

class KeeperTest : public testing::Test {
 protected:
  void StartKeeper(unsigned ports, unsigned queue_pairs = 1) {
    std::string text = absl::StrCat("[daemon]\nname = \"a\"\nrun_dir = \"", dir_ / "run", "\"\n");
    for (unsigned i = 0; i < ports; ++i)
      absl::StrAppend(&text, "[[port]]\nname = \"p", i, "\"\nsocket = \"", Socket(i), "\"\nqueue_pairs = ", queue_pairs,
                      "\n[[port.uplink]]\nkind = \"tap\"\ndevice = \"t", i, "\"\n");
    config_ = dir_.Write("everport.toml", text);
    keeper_ = std::make_unique<Process>(EVERPORT_KEEPER, Process::Options{.arguments = {"--config", config_}});
    ASSERT_TRUE(keeper_->WaitReady(kWait)) << keeper_->log();
  }
  std::string Socket(unsigned port) const { return dir_ / absl::StrCat("p", port, ".sock"); }
  std::string DaemonSocket(unsigned port) const { return dir_ / absl::StrCat("run/keeper/p", port, ".sock"); }
  std::string ControlSocket() const { return dir_ / "run/keeper.sock"; }
  FrontEndOptions Options(unsigned port, unsigned queue_pairs = 1, bool packed = false) const {
    FrontEndOptions options;
    options.socket = Socket(port);
    options.queue_pairs = queue_pairs;
    options.packed = packed;
    return options;
  }

  // One queue pair: the daemon has the session, and the guest was signalled for what the last one may have owed it.
  static bool Replayed(FrontEnd& front, FakeDaemon& daemon) {
    return daemon.WaitMessages(Request::kSetVringEnable, 2, kWait) && front.WaitCall(0, kWait);
  }

  TempDir dir_;
  std::string config_;
  std::unique_ptr<Process> keeper_;
};

TEST_F(KeeperTest, AFrontendIsServedWithoutADaemonAndTheDaemonIsReplayed) {
  StartKeeper(1, 2);
  FrontEnd front(Options(0, 2));
  ASSERT_TRUE(front.Connect(kWait).ok());
  FakeDaemon daemon({.socket = DaemonSocket(0)});
  ASSERT_TRUE(daemon.WaitMessages(Request::kSetVringEnable, 4, kWait)) << keeper_->log();
  // The guest is signalled for what a dead daemon may have owed it.
  EXPECT_TRUE(front.WaitCall(0, kWait));
  EXPECT_TRUE(front.WaitCall(3, kWait));
  // The descriptors are the front-end's own.
  const uint64_t one = 1;
  ASSERT_EQ(::write(daemon.Fd(Request::kSetVringCall, 1), &one, sizeof one), 8);
  EXPECT_TRUE(front.WaitCall(1, kWait));
  front.Kick(2);
  EXPECT_TRUE(fakes::WaitFd(daemon.Fd(Request::kSetVringKick, 2), POLLIN, kWait));
}

TEST_F(KeeperTest, DaemonsComeAndGoAndTheFrontendStaysConnected) {
  StartKeeper(1);
  FrontEnd front(Options(0));
  ASSERT_TRUE(front.Connect(kWait).ok());
  for (int life = 0; life < 20; ++life) {
    FakeDaemon daemon({.socket = DaemonSocket(0)});
    ASSERT_TRUE(daemon.WaitMessages(Request::kSetVringEnable, 2, kWait)) << keeper_->log();
    ASSERT_TRUE(front.WaitCall(0, kWait));
    daemon.Kill();
    ASSERT_FALSE(front.socket().closed());
  }
  EXPECT_TRUE(front.Ask(Request::kGetFeatures).ok());
}

TEST_F(KeeperTest, TheSecondDaemonWaitsUntilTheFirstIsGone) {
  StartKeeper(1);
  FrontEnd front(Options(0));
  ASSERT_TRUE(front.Connect(kWait).ok());
  FakeDaemon first({.socket = DaemonSocket(0)});
  ASSERT_TRUE(first.WaitMessages(Request::kSetVringEnable, 2, kWait));
  FakeDaemon second({.socket = DaemonSocket(0)});
  EXPECT_FALSE(second.WaitMessages(Request::kGetFeatures, 1, absl::Milliseconds(100)));
  first.Kill();
  EXPECT_TRUE(second.WaitMessages(Request::kSetVringEnable, 2, kWait));
}

TEST_F(KeeperTest, BasesAreTheDaemonsThenUsedIdx) {
  StartKeeper(1);
  FrontEnd front(Options(0));
  ASSERT_TRUE(front.Connect(kWait).ok());
  auto* used = reinterpret_cast<uint16_t*>(front.memory().Host(front.ring(0).device_gpa() + 2, 2));
  *used = 4711;
  FakeDaemon daemon({.socket = DaemonSocket(0), .base = 4712});
  ASSERT_TRUE(daemon.WaitMessages(Request::kSetVringEnable, 2, kWait));
  EXPECT_THAT(daemon.log(), Contains("SET_VRING_BASE 0 4711"));
  ASSERT_TRUE(front.Stop().ok());
  EXPECT_EQ(front.base(0), 4712u);
}

TEST_F(KeeperTest, AMemoryTableWhileRunningComesThroughAReconnect) {
  StartKeeper(1);
  FrontEnd front(Options(0));
  ASSERT_TRUE(front.Connect(kWait).ok());
  FakeDaemon daemon({.socket = DaemonSocket(0)});
  ASSERT_TRUE(Replayed(front, daemon)) << keeper_->log();
  const unsigned before = daemon.connections();
  const absl::Time start = absl::Now();
  ASSERT_TRUE(front.SendMemTable().ok());
  std::printf("SET_MEM_TABLE while running: %.1f ms\n", absl::ToDoubleMilliseconds(absl::Now() - start));
  EXPECT_EQ(daemon.connections(), before + 1);
  EXPECT_THAT(daemon.log(), Contains("SET_MEM_TABLE"));
}

TEST_F(KeeperTest, ADirtyLogIsPassedOnLive) {
  StartKeeper(1);
  FrontEnd front(Options(0));
  ASSERT_TRUE(front.Connect(kWait).ok());
  FakeDaemon daemon({.socket = DaemonSocket(0)});
  ASSERT_TRUE(Replayed(front, daemon)) << keeper_->log();
  ASSERT_TRUE(front.StartLog().ok());
  EXPECT_THAT(daemon.log(), Contains("SET_LOG_BASE"));
  ASSERT_TRUE(front.StopLog().ok());
  EXPECT_EQ(daemon.connections(), 1u);
}

TEST_F(KeeperTest, ADaemonThatHangsIsDroppedAfterTwoSecondsAndTheNextTakesOver) {
  StartKeeper(1);
  FrontEnd front(Options(0));
  ASSERT_TRUE(front.Connect(kWait).ok());
  {
    FakeDaemon silent({.socket = DaemonSocket(0), .silent = true});
    ASSERT_TRUE(keeper_->WaitLog("p0: daemon dropped", kWait)) << keeper_->log();
  }
  EXPECT_TRUE(front.Ask(Request::kGetFeatures).ok());
  FakeDaemon daemon({.socket = DaemonSocket(0)});
  EXPECT_TRUE(daemon.WaitMessages(Request::kSetVringEnable, 2, kWait));
}

TEST_F(KeeperTest, ADaemonThatLacksAFeatureIsHeldBackLongerEachTime) {
  StartKeeper(1);
  FrontEnd front(Options(0));
  ASSERT_TRUE(front.Connect(kWait).ok());
  FakeDaemon daemon({.socket = DaemonSocket(0), .features = ~fakes::Bit(kNetMrgRxbuf)});
  ASSERT_TRUE(keeper_->WaitLog("next one in 40 ms: the daemon lacks", kWait)) << keeper_->log();
  EXPECT_THAT(keeper_->log(), HasSubstr("VIRTIO_NET_F_MRG_RXBUF"));
}

TEST_F(KeeperTest, AFrontendThatRestartsGetsANewSession) {
  StartKeeper(1);
  auto front = std::make_unique<FrontEnd>(Options(0));
  ASSERT_TRUE(front->Connect(kWait).ok());
  FakeDaemon daemon({.socket = DaemonSocket(0)});
  ASSERT_TRUE(daemon.WaitMessages(Request::kSetVringEnable, 2, kWait));
  front.reset();
  ASSERT_TRUE(keeper_->WaitLog("p0: waiting", kWait));
  FrontEnd again(Options(0, 1, true));
  ASSERT_TRUE(again.Connect(kWait).ok()) << keeper_->log();
  EXPECT_TRUE(daemon.WaitMessages(Request::kSetVringKick, 4, kWait));
}

TEST_F(KeeperTest, AFolderThatComesLaterIsFound) {
  dir_.Write("x", "");
  const std::string late = dir_ / "late";
  const std::string text =
      absl::StrCat("[daemon]\nrun_dir = \"", dir_ / "run", "\"\n[[port]]\nname = \"p0\"\nsocket = \"", late,
                   "/p0.sock\"\n[[port.uplink]]\nkind = \"tap\"\ndevice = \"t\"\n");
  config_ = dir_.Write("everport.toml", text);
  keeper_ = std::make_unique<Process>(EVERPORT_KEEPER, Process::Options{.arguments = {"--config", config_}});
  ASSERT_TRUE(keeper_->WaitReady(kWait));
  ASSERT_EQ(::mkdir(late.c_str(), 0755), 0);
  FrontEndOptions options;
  options.socket = late + "/p0.sock";
  FrontEnd front(options);
  EXPECT_TRUE(front.Connect(kWait).ok());
}

TEST_F(KeeperTest, ControlAddsListsAndRemovesPortsOfTheirOwner) {
  StartKeeper(1);
  Control a(ControlSocket(), "a"), b(ControlSocket(), "b");
  const PortSpec spec{"extra", dir_ / "extra.sock", 2, 1500, "everport-1"};
  ControlReply added = b.Ask(AddRequest{spec});
  ASSERT_TRUE(added.ok) << added.error;
  EXPECT_EQ(added.socket, dir_ / "run/keeper/extra.sock");
  ASSERT_TRUE(b.last_fd.valid());
  void* map = ::mmap(nullptr, sizeof(IndexPage), PROT_READ | PROT_WRITE, MAP_SHARED, b.last_fd.get(), 0);
  ASSERT_NE(map, MAP_FAILED);
  EXPECT_EQ(static_cast<IndexPage*>(map)->magic, kIndexPageMagic);
  ::munmap(map, sizeof(IndexPage));
  EXPECT_NE(::ftruncate(b.last_fd.get(), 0), 0);  // sealed
  EXPECT_TRUE(b.Ask(AddRequest{spec}).ok);        // again, the same

  PortSpec other = spec;
  other.mtu = 9000;
  EXPECT_THAT(b.Ask(AddRequest{other}).error, HasSubstr("remove it first"));
  EXPECT_THAT(a.Ask(AddRequest{spec}).error, HasSubstr("belongs to daemon \"b\""));
  EXPECT_THAT(a.Ask(RemoveRequest{"extra"}).error, HasSubstr("belongs to daemon \"b\""));
  EXPECT_THAT(b.Ask(RemoveRequest{"p0"}).error, HasSubstr("belongs to daemon \"a\""));
  other = {"third", Socket(0), 1, 1500, "everport-1"};
  EXPECT_THAT(b.Ask(AddRequest{other}).error, HasSubstr("port p0 has the same socket"));
  other = {"third", dir_ / "third.sock", 1, 1500, "gold"};
  EXPECT_THAT(b.Ask(AddRequest{other}).error, HasSubstr("everport-1"));

  ASSERT_EQ(a.Ask(ListRequest{}).ports.size(), 1u);
  EXPECT_EQ(a.Ask(ListRequest{}).ports[0].spec.name, "p0");
  EXPECT_TRUE(b.Ask(RemoveRequest{"extra"}).ok);
  EXPECT_TRUE(b.Ask(ListRequest{}).ports.empty());
  EXPECT_NE(::access((dir_ / "run/keeper/extra.sock").c_str(), F_OK), 0);
  EXPECT_THAT(b.Ask(RemoveRequest{"extra"}).error, HasSubstr("not there"));
}

TEST_F(KeeperTest, AnOwnProfileIsOfferedBitForBitAndStaysWhatItsGuestWasOffered) {
  StartKeeper(0);
  Control a(ControlSocket(), "a");
  FeatureContract mine = *FindContract("everport-1");
  mine.name = "mine-1";
  mine.features &= ~(uint64_t{1} << kRingPacked | uint64_t{1} << kInOrder);
  mine.max_queue_pairs = 2;
  PortSpec spec{"p0", Socket(0), 1, 1500, "mine-1"};
  EXPECT_THAT(a.Ask(AddRequest{spec}).error, HasSubstr("\"mine-1\" is not a feature contract"));
  spec.profile = mine;
  spec.queue_pairs = 3;
  EXPECT_THAT(a.Ask(AddRequest{spec}).error, HasSubstr("contract mine-1 allows 2 queue pairs"));
  spec.queue_pairs = 1;
  ASSERT_TRUE(a.Ask(AddRequest{spec}).ok);
  FrontEnd front(Options(0));
  ASSERT_TRUE(front.Connect(kWait).ok());
  EXPECT_EQ(front.offered_features(), mine.features);
  EXPECT_EQ(front.offered_protocol_features(), mine.protocol_features);
  EXPECT_TRUE(a.Ask(AddRequest{spec}).ok);  // again, the same

  spec.profile->features &= ~(uint64_t{1} << kNetMtu);
  EXPECT_THAT(a.Ask(AddRequest{spec}).error,
              HasSubstr("port p0: its session was begun with another contract mine-1, which its guest relies on"));
  EXPECT_FALSE(front.socket().closed());
}

TEST_F(KeeperTest, ControlRefusesWhatItDoesNotUnderstand) {
  StartKeeper(0);
  Control a(ControlSocket(), "a");
  EXPECT_THAT(a.AskText("{").error, HasSubstr("not JSON"));
  EXPECT_THAT(a.AskText("{\"op\":\"fly\"}").error, HasSubstr("op"));
  EXPECT_THAT(a.AskText("{\"op\":\"hello\",\"version\":7,\"daemon\":\"a\"}").error, HasSubstr("protocol 7"));
  EXPECT_TRUE(a.Ask(ListRequest{}).ok);
}

TEST_F(KeeperTest, EventsGoToTheOwner) {
  StartKeeper(1);
  Control a(ControlSocket(), "a"), b(ControlSocket(), "b");
  FrontEnd front(Options(0));
  ASSERT_TRUE(front.Connect(kWait).ok());
  EXPECT_TRUE(a.WaitState("p0", SessionState::kConnected));
  EXPECT_TRUE(a.WaitState("p0", SessionState::kRunning));
  const uint8_t mac[6] = {0x52, 0x54, 0, 0, 0, 2};
  ASSERT_TRUE(front.SendRarp(mac).ok());
  const auto event = a.Event();
  ASSERT_TRUE(event && std::holds_alternative<AnnounceEvent>(*event));
  EXPECT_EQ(std::get<AnnounceEvent>(*event).mac, "52:54:00:00:00:02");
  const ControlReply list = a.Ask(ListRequest{});
  ASSERT_EQ(list.ports.size(), 1u);
  EXPECT_EQ(list.ports[0].state, SessionState::kRunning);
  EXPECT_FALSE(list.ports[0].daemon_attached);
  EXPECT_TRUE(b.Ask(ListRequest{}).ok);
  EXPECT_TRUE(b.events.empty());
  front.Disconnect();
  EXPECT_TRUE(a.WaitState("p0", SessionState::kWaiting));
}

TEST_F(KeeperTest, ARunningFrontendOfANewPortIsToldWithoutAsking) {
  StartKeeper(0);
  FrontEndOptions options = Options(0);
  FrontEnd front(options);
  front.Listen();  // before the port is there
  Control b(ControlSocket(), "b");
  ASSERT_TRUE(b.Ask(AddRequest{{"extra", Socket(0), 1, 1500, "everport-1"}}).ok);
  EXPECT_TRUE(b.WaitState("extra", SessionState::kConnected));
}

TEST_F(KeeperTest, AnswersWaitForADaemonThatReadsLate) {
  constexpr int kRequests = 15'000;  // more than a socket's buffer holds
  StartKeeper(0);
  Control a(ControlSocket(), "a");
  for (int i = 0; i < kRequests; ++i) ASSERT_TRUE(a.Tell(ListRequest{})) << i << "\n" << keeper_->log();
  for (int i = 0; i < kRequests; ++i) ASSERT_TRUE(a.Event()) << i << "\n" << keeper_->log();
}

TEST_F(KeeperTest, WithoutDescriptorsToSpareItWaitsAtRestAndGoesOnLater) {
  StartKeeper(0);
  rlimit before{};
  ASSERT_EQ(::prlimit(keeper_->pid(), RLIMIT_NOFILE, nullptr, &before), 0);
  const rlimit none{0, before.rlim_max};
  ASSERT_EQ(::prlimit(keeper_->pid(), RLIMIT_NOFILE, &none, nullptr), 0);
  absl::StatusOr<UniqueFd> waits = ConnectUnix(ControlSocket(), SOCK_SEQPACKET);
  ASSERT_TRUE(waits.ok());
  ASSERT_TRUE(keeper_->WaitLog("cannot accept: Too many open files", kWait)) << keeper_->log();
  const double spent = keeper_->cpu_seconds();
  absl::SleepFor(absl::Milliseconds(400));  // nothing is to happen
  EXPECT_LT(keeper_->cpu_seconds() - spent, 0.1);
  const std::string log = keeper_->log();
  EXPECT_EQ(log.find("cannot accept"), log.rfind("cannot accept")) << log;
  ASSERT_EQ(::prlimit(keeper_->pid(), RLIMIT_NOFILE, &before, nullptr), 0);
  EXPECT_TRUE(Control(ControlSocket(), "a").Ask(ListRequest{}).ok);
}

TEST_F(KeeperTest, AFrontendThatLeavesAfterItsFirstMessageIsConnectedToLessAndLessOften) {
  StartKeeper(1);
  FrontEnd bad(Options(0));
  bad.Listen();
  absl::Time start;
  for (int i = 0; i < 10; ++i) {
    ASSERT_TRUE(bad.Accept(kWait).ok()) << i << keeper_->log();
    if (i == 0) start = absl::Now();
    ASSERT_TRUE(bad.Ask(Request::kGetFeatures).ok());
    bad.Disconnect();
  }
  EXPECT_GT(absl::Now() - start, absl::Milliseconds(200));  // 1 + 2 + 4 + ... + 256 ms
}

TEST_F(KeeperTest, AFrontendCannotMakeTheDaemonComeAnewAtWill) {
  StartKeeper(1);
  FrontEnd front(Options(0));
  ASSERT_TRUE(front.Connect(kWait).ok());
  FakeDaemon daemon({.socket = DaemonSocket(0)});
  ASSERT_TRUE(Replayed(front, daemon)) << keeper_->log();
  const absl::Time start = absl::Now();
  for (int i = 0; i < 60; ++i) ASSERT_TRUE(front.SendMemTable().ok()) << i;
  EXPECT_GT(absl::Now() - start, absl::Milliseconds(350));  // 20 at will, then one in 10 ms
}

TEST_F(KeeperTest, OneKeeperARunDirAndStaleSocketsAreReplaced) {
  StartKeeper(1);
  {
    Process second(EVERPORT_KEEPER, {.arguments = {"--config", config_}});
    EXPECT_FALSE(second.WaitReady(kWait));
    EXPECT_THAT(second.log(), HasSubstr("one keeper serves a run_dir"));
    EXPECT_EQ(second.Terminate(kWait) >> 8, 1);
  }
  EXPECT_TRUE(Control(ControlSocket(), "a").Ask(ListRequest{}).ok);
  struct stat st {};
  ASSERT_EQ(::stat(ControlSocket().c_str(), &st), 0);
  EXPECT_EQ(st.st_mode & 0777, 0600u);
  ASSERT_EQ(::stat((dir_ / "run/keeper").c_str(), &st), 0);
  EXPECT_EQ(st.st_mode & 0777, 0700u);

  keeper_->Kill();  // leaves its sockets behind
  ASSERT_EQ(::access(ControlSocket().c_str(), F_OK), 0);
  keeper_ = std::make_unique<Process>(EVERPORT_KEEPER, Process::Options{.arguments = {"--config", config_}});
  ASSERT_TRUE(keeper_->WaitReady(kWait)) << keeper_->log();
  EXPECT_EQ(keeper_->Terminate(kWait), 0);
  EXPECT_NE(::access(ControlSocket().c_str(), F_OK), 0);
  EXPECT_NE(::access(DaemonSocket(0).c_str(), F_OK), 0);
}

TEST_F(KeeperTest, ARefusedConfigurationExitsWith78) {
  config_ = dir_.Write("everport.toml", "[daemon]\nnmae = \"a\"\n");
  Process keeper(EVERPORT_KEEPER, {.arguments = {"--config", config_}});
  EXPECT_FALSE(keeper.WaitReady(kWait));
  EXPECT_EQ(keeper.Terminate(kWait) >> 8, 78);
  EXPECT_THAT(keeper.log(), HasSubstr("everport.toml:2"));
}

// What hostile front-ends do on port 0; port 1 and its daemon go on, and no descriptor stays behind.
TEST_F(KeeperTest, HostileFrontendsLoseTheirSessionsAndLeaveNothingBehind) {
  StartKeeper(2);
  FrontEnd good(Options(1));
  ASSERT_TRUE(good.Connect(kWait).ok());
  FakeDaemon daemon({.socket = DaemonSocket(1)});
  ASSERT_TRUE(Replayed(good, daemon)) << keeper_->log();
  ASSERT_TRUE(keeper_->WaitLog("p1: daemon holds the session", kWait));
  const size_t fds = keeper_->fd_count();

  UniqueFd any(::memfd_create("any", MFD_CLOEXEC));
  const std::vector<int> flood(32, any.get());
  using Act = std::function<void(FrontEnd&)>;
  const std::vector<std::pair<const char*, Act>> attacks = {
      {"more than 8 descriptors", [&](FrontEnd& f) { (void)f.socket().Send(Request::kSetOwner, {}, flood); }},
      {"payload of 1000000 bytes",
       [&](FrontEnd& f) {
         const vhost_user::Header header{2, 1, 1'000'000};
         (void)f.socket().SendBytes({reinterpret_cast<const uint8_t*>(&header), sizeof header}, {flood.data(), 3});
       }},
      {"a message begun 2 s ago",
       [&](FrontEnd& f) {
         const uint8_t half[5] = {2, 0, 0, 0, 1};
         (void)f.socket().SendBytes(half, {flood.data(), 8});
       }},
      {"inside a message",
       [&](FrontEnd& f) {
         const uint8_t half[5] = {2, 0, 0, 0, 1};
         (void)f.socket().SendBytes(half, {flood.data(), 8});
         f.socket().Close();
       }},
      {"descriptors in the middle",
       [&](FrontEnd& f) {
         const vhost_user::Header header{2, 1, 8};
         const uint64_t value = 0;
         (void)f.socket().SendBytes({reinterpret_cast<const uint8_t*>(&header), sizeof header});
         (void)f.socket().SendBytes({reinterpret_cast<const uint8_t*>(&value), sizeof value}, {flood.data(), 2});
       }},
      {"version 2", [&](FrontEnd& f) { (void)f.socket().Send(Request::kGetFeatures, {}, {}, 2); }},
      {"GET_INFLIGHT_FD",
       [&](FrontEnd& f) {
         (void)f.socket().Send(Request::kGetInflightFd, {}, {flood.data(), 8});
       }},
      {"beyond its file",
       [&](FrontEnd& f) {
         auto table = f.memory().Table();
         std::vector<uint8_t> payload(8 + sizeof table[0]);
         const uint32_t one = 1;
         table[0].memory_size = 1ull << 40;
         std::memcpy(payload.data(), &one, sizeof one);
         std::memcpy(payload.data() + 8, table.data(), sizeof table[0]);
         (void)f.socket().Send(Request::kSetMemTable, payload, {flood.data(), 1});
       }},
  };
  for (const auto& [reason, act] : attacks) {
    const size_t from = keeper_->log().size();
    FrontEnd bad(Options(0));
    bad.Listen();
    ASSERT_TRUE(bad.Accept(kWait).ok()) << reason << "\n" << keeper_->log();
    ASSERT_TRUE(bad.Run(fakes::QemuConnectSteps(1)).ok()) << reason;
    act(bad);
    ASSERT_TRUE(keeper_->WaitLog(reason, kWait, from)) << reason << "\n" << keeper_->log();
  }
  // One that floods with messages and reads nothing.
  {
    FrontEnd bad(Options(0));
    bad.Listen();
    ASSERT_TRUE(bad.Accept(kWait).ok());
    for (int i = 0; i < 2'000; ++i)
      if (!bad.socket().Send(Request::kGetFeatures, {}).ok()) break;
    EXPECT_TRUE(good.Ask(Request::kGetFeatures).ok());
  }
  ASSERT_TRUE(keeper_->WaitLog("p0: waiting: the peer closed", kWait));
  EXPECT_TRUE(good.Ask(Request::kGetFeatures).ok());
  EXPECT_EQ(daemon.connections(), 1u);
  // The last close is on its way when its log line is out.
  const absl::Time until = absl::Now() + kWait;
  while (keeper_->fd_count() != fds && absl::Now() < until) absl::SleepFor(absl::Milliseconds(1));
  EXPECT_EQ(keeper_->fd_count(), fds) << absl::StrJoin(keeper_->fds(), "\n");
}

// The descriptor is the front-end's as much as the keeper's: it stays as it was made, and waits for nobody.
TEST_F(KeeperTest, AFullCallDescriptorThatWaitsHoldsNothingUpAndKeepsItsMode) {
  StartKeeper(1);
  FrontEnd front(Options(0));
  ASSERT_TRUE(front.Connect(kWait).ok());
  const int call = front.call_fd(0);
  const int mode = ::fcntl(call, F_GETFL) & ~O_NONBLOCK;
  ASSERT_EQ(::fcntl(call, F_SETFL, mode), 0);
  uint64_t count = ~uint64_t{1};
  ASSERT_EQ(::write(call, &count, sizeof count), ssize_t{sizeof count});
  FakeDaemon daemon({.socket = DaemonSocket(0)});
  ASSERT_TRUE(keeper_->WaitLog("daemon holds the session", kWait)) << keeper_->log();
  EXPECT_TRUE(front.WaitCall(1, kWait)) << "the ring after it is called";
  EXPECT_TRUE(front.Ask(Request::kGetFeatures).ok());
  EXPECT_EQ(::fcntl(call, F_GETFL), mode);
  EXPECT_EQ(::read(call, &count, sizeof count), ssize_t{sizeof count});
  EXPECT_EQ(count, ~uint64_t{0}) << "signalled without a write";
}

TEST_F(KeeperTest, SixtyFourSessionsConnectWithin20msAndFitIn16MiB) {
  constexpr unsigned kPorts = 64;
  StartKeeper(kPorts);
  std::vector<std::unique_ptr<FrontEnd>> fronts;
  std::vector<double> latency;
  for (unsigned i = 0; i < kPorts; ++i) {
    FrontEndOptions options = Options(i);
    options.ring_size = 64;
    fronts.push_back(std::make_unique<FrontEnd>(options));
    const absl::Time start = absl::Now();
    fronts.back()->Listen();
    ASSERT_TRUE(fronts.back()->Accept(kWait).ok()) << i;
    latency.push_back(absl::ToDoubleMilliseconds(absl::Now() - start));
    ASSERT_TRUE(fronts.back()->Run(fakes::QemuConnectSteps(1)).ok()) << i;
    ASSERT_TRUE(fronts.back()->StartDriver().ok()) << i;
  }
  std::sort(latency.begin(), latency.end());
  std::vector<std::unique_ptr<FakeDaemon>> daemons;
  for (unsigned i = 0; i < kPorts; ++i) {
    daemons.push_back(std::make_unique<FakeDaemon>(FakeDaemon::Options{.socket = DaemonSocket(i)}));
    ASSERT_TRUE(daemons.back()->WaitMessages(Request::kSetVringEnable, 2, kWait)) << i;
  }
  std::printf("socket appears -> connected: median %.2f ms, worst %.2f ms of %u\n", latency[kPorts / 2], latency.back(),
              kPorts);
  std::printf("keeper with %u running sessions and daemons: %.1f MiB resident, %.1f MiB proportional\n", kPorts,
              static_cast<double>(keeper_->rss_bytes()) / (1 << 20),
              static_cast<double>(keeper_->pss_bytes()) / (1 << 20));
  EXPECT_LT(latency[kPorts / 2], 20);
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)  // their shadow memory is not the keeper's
  EXPECT_LT(keeper_->rss_bytes(), size_t{16} << 20);
#endif
}

}  // namespace
}  // namespace everport
