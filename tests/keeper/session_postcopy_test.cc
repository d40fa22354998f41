// A guest that arrives by post-copy: what the session passes on, what it answers by itself, and whom it keeps out.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>

#include "tests/keeper/session_world.h"

namespace everport {
namespace {

using testing::HasSubstr;
using vhost_user::MemoryRegion;
using vhost_user::Message;
using vhost_user::PayloadAs;
using vhost_user::Request;
using vhost_user::VringState;

constexpr uint64_t kFeatures = Bit(kVersion1) | Bit(kVhostUserProtocolFeatures);

// An arriving guest's QEMU, and a daemon with a userfaultfd.
class PostcopyWorld : public SessionWorld {
 public:
  PostcopyWorld() : SessionWorld(1, true) { userfaultfd = UniqueFd(::eventfd(0, EFD_CLOEXEC)); }

  void Arrive() {
    Attach();
    Connect();
    Negotiate(kFeatures);
  }
  void Advise() { Say(Request::kPostcopyAdvise); }
  void Listen() { Say(Request::kPostcopyListen, true); }
  void End() { Say(Request::kPostcopyEnd, true); }
  // QEMU asks for no reply acknowledgement then: the table is one.
  void Table() {
    Message message = vhost_user::EncodeMemTable({{kGpa, kMemory, kUva, 0}}, 0);
    message.fds.push_back(memory.Dup());
    Say(std::move(message));
  }
  void AckTable(uint64_t value = 0) { Say(Request::kSetMemTable, value, -1, false); }
  void ArriveAndListen() {
    Arrive();
    Advise();
    Listen();
  }
  void RunRings(uint32_t base = 0) {
    StartRing(0, base);
    StartRing(1, base);
  }
  void ArriveAndRun(uint32_t base = 0) {
    ArriveAndListen();
    Table();
    AckTable();
    RunRings(base);
  }
  void LoseDaemon() { Run(session.DaemonGone("killed")); }
  // Of the last reply, a memory table.
  uint64_t ToldBase() const {
    EXPECT_EQ(replies.back().request, Request::kSetMemTable);
    EXPECT_EQ(replies.back().payload.size(), 8 + sizeof(MemoryRegion));
    MemoryRegion region{};
    if (replies.back().payload.size() == 8 + sizeof region)
      std::memcpy(&region, replies.back().payload.data() + 8, sizeof region);
    EXPECT_EQ(region.guest_phys_addr, kGpa);
    EXPECT_EQ(region.memory_size, kMemory);
    return region.userspace_addr;
  }
  bool Refused() const {  // as QEMU understands it
    return replies.back().request == Request::kPostcopyAdvise && replies.back().fds.empty() &&
           replies.back().payload.empty() && closed_frontend.empty();
  }
};

TEST(SessionPostcopyTest, IsOfferedOnlyToAPortThatHasIt) {
  SessionWorld without(1, false);
  without.Connect();
  without.Say(Request::kGetProtocolFeatures);
  EXPECT_EQ(without.LastReply() & kPagefault, 0u);
  without.Negotiate(kFeatures);
  without.Say(Request::kPostcopyAdvise);
  EXPECT_THAT(without.closed_frontend, HasSubstr("POSTCOPY_ADVISE: was not offered"));
  PostcopyWorld with;
  with.Connect();
  with.Say(Request::kGetProtocolFeatures);
  EXPECT_EQ(with.LastReply() & kPagefault, kPagefault);
}

TEST(SessionPostcopyTest, TheWholeWayOfAGuest) {
  PostcopyWorld w;
  w.Arrive();
  w.Advise();
  ASSERT_EQ(w.replies.back().request, Request::kPostcopyAdvise);
  EXPECT_EQ(w.replies.back().fds.size(), 1u);
  EXPECT_TRUE(w.replies.back().payload.empty());
  EXPECT_FALSE(w.session.record().listening());
  EXPECT_EQ(w.states.back().postcopy, Postcopy::kAdvised);

  w.Listen();
  EXPECT_EQ(w.LastReply(), 0u);
  EXPECT_TRUE(w.session.record().listening());
  EXPECT_EQ(w.states.back().postcopy, Postcopy::kListening);

  const size_t before = w.to_daemon.size();
  w.Table();
  EXPECT_EQ(w.ToldBase(), SessionWorld::kDaemonBase);
  EXPECT_EQ(w.daemon_acks, 1);
  EXPECT_EQ(w.Sent(before), "SET_MEM_TABLE SET_MEM_TABLE GET_PROTOCOL_FEATURES");
  EXPECT_EQ(PayloadAs<uint64_t>(w.to_daemon[before + 1]), 0u);
  const size_t replies = w.replies.size();
  w.AckTable();
  EXPECT_EQ(w.replies.size(), replies);  // QEMU awaits none
  EXPECT_EQ(w.daemon_acks, 1);

  w.RunRings();
  EXPECT_EQ(w.session.state(), SessionState::kRunning);
  w.End();
  EXPECT_EQ(w.LastReply(), 0u);
  EXPECT_FALSE(w.daemon_listening);
  EXPECT_EQ(w.states.back().postcopy, Postcopy::kNone);
  EXPECT_TRUE(w.session.daemon_synced());
  EXPECT_EQ(w.closed_frontend, "");
  EXPECT_EQ(w.closed_daemon, "");
}

TEST(SessionPostcopyTest, TheTableIsAnsweredWhenTheDaemonHasRegisteredIt) {
  PostcopyWorld w;
  w.ArriveAndListen();
  w.daemon_willing = false;
  const size_t replies = w.replies.size();
  w.Table();
  w.AnswerOne();  // where the regions are
  w.AnswerOne();  // the keeper's word
  EXPECT_EQ(w.daemon_acks, 1);
  EXPECT_EQ(w.replies.size(), replies);
  EXPECT_TRUE(w.session.frontend_paused());
  w.AnswerOne();  // what comes behind it
  EXPECT_EQ(w.replies.size(), replies + 1);
}

TEST(SessionPostcopyTest, WithoutADaemonOrItsUserfaultfdAdviceIsRefusedAndTheSessionKept) {
  PostcopyWorld none;
  none.Connect();
  none.Negotiate(kFeatures);
  none.Advise();
  EXPECT_TRUE(none.Refused());
  EXPECT_THAT(none.notes.back(), HasSubstr("no daemon is there"));

  PostcopyWorld unable;
  unable.userfaultfd = UniqueFd();
  unable.Arrive();
  unable.Advise();
  EXPECT_TRUE(unable.Refused());
  for (const StateChanged& state : unable.states) EXPECT_EQ(state.postcopy, Postcopy::kNone);
  EXPECT_TRUE(unable.session.daemon_synced());
  EXPECT_THAT(unable.notes.back(), HasSubstr("everportctl doctor"));

  PostcopyWorld older;
  older.daemon_protocol &= ~kPagefault;
  older.Arrive();
  const size_t before = older.to_daemon.size();
  older.Advise();
  EXPECT_TRUE(older.Refused());
  EXPECT_EQ(older.Sent(before), "");

  PostcopyWorld dying;
  dying.Arrive();
  dying.daemon_willing = false;
  dying.Advise();
  dying.LoseDaemon();
  EXPECT_TRUE(dying.Refused());

  PostcopyWorld silent;
  silent.Arrive();
  silent.daemon_willing = false;
  silent.Advise();
  silent.Run(silent.session.Deadline());
  EXPECT_TRUE(silent.Refused());
  EXPECT_THAT(silent.closed_daemon, HasSubstr("POSTCOPY_ADVISE for 2000 ms"));
}

TEST(SessionPostcopyTest, AfterARefusedAdviceListenBreaksTheSession) {
  PostcopyWorld w;
  w.userfaultfd = UniqueFd();
  w.Arrive();
  w.Advise();
  w.Listen();
  EXPECT_THAT(w.closed_frontend, HasSubstr("POSTCOPY_LISTEN: without POSTCOPY_ADVISE"));
}

TEST(SessionPostcopyTest, ALaterRefusalTakesEarlierAdviceBack) {
  PostcopyWorld w;
  w.Arrive();
  w.Advise();
  EXPECT_EQ(w.session.postcopy(), Postcopy::kAdvised);
  w.userfaultfd = UniqueFd();
  w.Advise();
  EXPECT_TRUE(w.Refused());
  EXPECT_EQ(w.session.postcopy(), Postcopy::kNone);
  EXPECT_EQ(w.states.back().postcopy, Postcopy::kNone);
  w.Listen();
  EXPECT_THAT(w.closed_frontend, HasSubstr("POSTCOPY_LISTEN: without POSTCOPY_ADVISE"));
}

TEST(SessionPostcopyTest, AGuestThatCameInOneGoAfterAllIsServedAsEver) {
  PostcopyWorld w;
  w.Arrive();
  w.Advise();
  EXPECT_EQ(w.states.back().postcopy, Postcopy::kAdvised);
  w.ShareMemory();
  EXPECT_EQ(w.LastReply(), 0u);
  EXPECT_EQ(w.states.back().postcopy, Postcopy::kNone);  // QEMU sends no POSTCOPY_END then
  EXPECT_EQ(w.session.postcopy(), Postcopy::kNone);
  w.RunRings();
  w.LoseDaemon();
  EXPECT_TRUE(w.session.daemon_welcome());
  w.Attach();
  EXPECT_TRUE(w.session.daemon_synced());
  EXPECT_EQ(w.synced, 2);
}

TEST(SessionPostcopyTest, AdviceGivenTwiceLeavesOneUserfaultfd) {
  PostcopyWorld w;
  w.Arrive();
  w.Advise();
  const size_t before = w.to_daemon.size();
  w.Advise();
  EXPECT_EQ(w.Sent(before), "POSTCOPY_END POSTCOPY_ADVISE");
  EXPECT_EQ(w.replies.back().fds.size(), 1u);
  w.Listen();
  w.Listen();
  EXPECT_EQ(w.LastReply(), 0u);
  EXPECT_TRUE(w.daemon_listening);
}

TEST(SessionPostcopyTest, EndComesAsOftenAsItLikes) {
  PostcopyWorld w;
  w.Arrive();
  w.End();  // of nothing
  EXPECT_EQ(w.LastReply(), 0u);
  w.Advise();
  w.End();
  EXPECT_EQ(w.LastReply(), 0u);
  w.Advise();
  w.Listen();
  w.End();
  w.End();
  EXPECT_EQ(w.LastReply(), 0u);
  EXPECT_EQ(w.closed_frontend, "");
}

TEST(SessionPostcopyTest, NoOtherDaemonIsLetInBeforeTheEnd) {
  PostcopyWorld w;
  w.ArriveAndRun();
  w.LoseDaemon();
  EXPECT_FALSE(w.session.daemon_welcome());
  EXPECT_EQ(w.session.state(), SessionState::kRunning);
  EXPECT_THAT(w.session.reason(), HasSubstr("post-copy under way"));
  EXPECT_THAT(w.states.back().reason, HasSubstr("post-copy under way"));
  w.Say(Request::kSetVringEnable, VringState{0, 1});
  EXPECT_EQ(w.LastReply(), 0u);  // the front-end is served on
  EXPECT_THAT(w.session.reason(), HasSubstr("post-copy under way"));

  w.End();
  EXPECT_EQ(w.LastReply(), 0u);
  EXPECT_TRUE(w.session.daemon_welcome());
  EXPECT_EQ(w.session.reason(), "");
  w.SetUsedIdx(0, 77);
  const size_t before = w.to_daemon.size();
  w.Attach();
  EXPECT_TRUE(w.session.daemon_synced());
  EXPECT_EQ(PayloadAs<VringState>(*w.Find(Request::kSetVringBase, 0, before)).num, 77u);
  EXPECT_EQ(w.closed_frontend, "");
}

TEST(SessionPostcopyTest, WithoutTheAdvisedDaemonTheGuestStillArrives) {
  PostcopyWorld w;
  w.Arrive();
  w.Advise();
  w.LoseDaemon();
  w.Attach();  // another, which has no userfaultfd of this arrival
  EXPECT_TRUE(w.session.daemon_synced());
  w.Listen();
  EXPECT_EQ(w.LastReply(), 0u);
  EXPECT_THAT(w.closed_daemon, HasSubstr("has gone"));
  EXPECT_FALSE(w.session.daemon_welcome());
  w.Table();
  EXPECT_EQ(w.ToldBase(), SessionWorld::kUva);
  w.AckTable();
  w.RunRings();
  EXPECT_EQ(w.session.state(), SessionState::kRunning);
  EXPECT_EQ(w.closed_frontend, "");
  w.End();
  w.Attach();
  EXPECT_TRUE(w.session.daemon_synced());
}

TEST(SessionPostcopyTest, ADaemonThatFailsInTheMiddleCostsItsOwnLinkAlone) {
  for (const Request refused : {Request::kPostcopyListen, Request::kSetMemTable}) {
    PostcopyWorld w;
    w.daemon_refuses = refused;
    w.ArriveAndListen();
    EXPECT_EQ(w.LastReply(), 0u);
    w.Table();
    EXPECT_EQ(w.ToldBase(), SessionWorld::kUva) << vhost_user::RequestText(refused);
    EXPECT_NE(w.closed_daemon, "");
    EXPECT_FALSE(w.session.daemon_welcome());
    EXPECT_EQ(w.closed_frontend, "");
  }
}

TEST(SessionPostcopyTest, ADaemonThatDiesWhileRegisteringIsAnsweredFor) {
  for (int answers = 0; answers <= 2; ++answers) {
    PostcopyWorld w;
    w.ArriveAndListen();
    w.daemon_willing = false;
    w.Table();
    for (int i = 0; i < answers; ++i) w.AnswerOne();
    w.LoseDaemon();
    EXPECT_NE(w.ToldBase(), 0u);
    w.AckTable();
    EXPECT_FALSE(w.session.frontend_paused());
    EXPECT_EQ(w.closed_frontend, "");
  }
}

TEST(SessionPostcopyTest, WhatTheDaemonSaysIsChecked) {
  const auto after_table = [](const std::function<void(Message&)>& spoil) {
    PostcopyWorld w;
    w.ArriveAndListen();
    w.daemon_willing = false;
    w.Table();
    Message reply =
        vhost_user::EncodeMemTable({{PostcopyWorld::kGpa, PostcopyWorld::kMemory, 0x1000, 0}}, vhost_user::kFlagReply);
    spoil(reply);
    w.Run(w.session.DaemonMessage(std::move(reply)));
    EXPECT_EQ(w.ToldBase(), SessionWorld::kUva);
    return w.closed_daemon;
  };
  EXPECT_THAT(after_table([](Message& m) { m.payload.pop_back(); }), HasSubstr("39 bytes for 1 regions"));
  EXPECT_THAT(after_table([](Message& m) { m.payload[8] ^= 1; }), HasSubstr("other regions"));
  EXPECT_THAT(after_table([](Message& m) { m.payload.resize(8); }), HasSubstr("did not take guest memory"));
  EXPECT_THAT(after_table([](Message& m) { m.fds.emplace_back(::eventfd(0, 0)); }), HasSubstr("sent descriptors"));

  for (const int fds : {0, 2}) {
    PostcopyWorld w;
    w.Arrive();
    w.daemon_willing = false;
    w.Advise();
    Message reply = vhost_user::MakeMessage(Request::kPostcopyAdvise, vhost_user::kFlagReply);
    for (int i = 0; i < fds; ++i) reply.fds.push_back(w.userfaultfd.Dup());
    w.Run(w.session.DaemonMessage(std::move(reply)));
    EXPECT_TRUE(w.Refused());
    EXPECT_THAT(w.closed_daemon, HasSubstr("0 bytes and " + std::to_string(fds) + " descriptors"));
  }
}

TEST(SessionPostcopyTest, AFrontendThatBreaksARuleLosesItsSession) {
  const auto closed = [](const std::function<void(PostcopyWorld&)>& say) {
    PostcopyWorld w;
    w.Arrive();
    w.Advise();
    say(w);
    EXPECT_FALSE(w.session.record().listening());
    // The next one begins with nothing of this one's.
    w.Attach();
    w.Connect();
    w.Negotiate(kFeatures);
    w.ShareMemory();
    EXPECT_EQ(w.LastReply(), 0u);
    return w.closed_frontend;
  };
  EXPECT_THAT(closed([](auto& w) { w.Say(Request::kPostcopyAdvise, uint64_t{0}); }), HasSubstr("payload of 8 bytes"));
  EXPECT_THAT(closed([](auto& w) { w.Say(Request::kPostcopyListen, uint64_t{0}); }), HasSubstr("payload of 8 bytes"));
  for (const Request request : {Request::kPostcopyAdvise, Request::kPostcopyListen, Request::kPostcopyEnd}) {
    EXPECT_THAT(closed([&](auto& w) {
                  Message message = vhost_user::MakeMessage(request, 0);
                  message.fds.push_back(w.event.Dup());
                  w.Say(std::move(message));
                }),
                HasSubstr("1 descriptors, expected 0"));
  }
  EXPECT_THAT(closed([](auto& w) {
                w.Listen();
                w.Advise();
              }),
              HasSubstr("POSTCOPY_ADVISE: post-copy is under way"));
  EXPECT_THAT(closed([](auto& w) {
                w.ShareMemory();
                w.Listen();
              }),
              HasSubstr("POSTCOPY_LISTEN: after SET_MEM_TABLE"));
  EXPECT_THAT(closed([](auto& w) { w.AckTable(); }), HasSubstr("SET_MEM_TABLE: 0 regions"));
}

TEST(SessionPostcopyTest, OnlyTheWordThatItKnowsMayFollowTheTable) {
  const auto closed = [](const std::function<void(PostcopyWorld&)>& say) {
    PostcopyWorld w;
    w.ArriveAndListen();
    w.Table();
    say(w);
    return w.closed_frontend;
  };
  EXPECT_EQ(closed([](auto& w) { w.AckTable(); }), "");
  EXPECT_THAT(closed([](auto& w) { w.AckTable(1); }), HasSubstr("cannot serve these regions"));
  EXPECT_THAT(closed([](auto& w) { w.Say(Request::kSetMemTable, uint32_t{0}); }), HasSubstr("acknowledgement"));
  EXPECT_THAT(closed([](auto& w) { w.Say(Request::kSetMemTable, uint64_t{0}, w.event.get()); }),
              HasSubstr("acknowledgement"));
  EXPECT_THAT(closed([](auto& w) { w.Table(); }), HasSubstr("acknowledgement"));
  EXPECT_THAT(closed([](auto& w) { w.Say(Request::kSetVringNum, VringState{0, 64}); }), HasSubstr("acknowledgement"));
  EXPECT_THAT(closed([](auto& w) { w.End(); }), HasSubstr("acknowledgement"));
  EXPECT_THAT(closed([](auto& w) {
                Message message = vhost_user::MakeReply(Request::kSetMemTable, 0);
                w.Say(std::move(message));
              }),
              HasSubstr("acknowledgement"));
}

TEST(SessionPostcopyTest, TheSameTableAgainIsAnsweredWithoutTheDaemon) {
  PostcopyWorld w;
  w.ArriveAndRun();
  const size_t before = w.to_daemon.size();
  w.Table();
  EXPECT_EQ(w.ToldBase(), SessionWorld::kDaemonBase);
  w.AckTable();
  EXPECT_EQ(w.Sent(before), "");
  EXPECT_TRUE(w.session.daemon_synced());
}

TEST(SessionPostcopyTest, AnotherTableUnderRunningRingsCostsTheDaemon) {
  PostcopyWorld w;
  w.ArriveAndRun();
  UniqueFd more(::memfd_create("more", MFD_CLOEXEC));
  ASSERT_EQ(::ftruncate(more.get(), 4096), 0);
  Message message = vhost_user::EncodeMemTable(
      {{PostcopyWorld::kGpa, PostcopyWorld::kMemory, PostcopyWorld::kUva, 0}, {0x10000000, 4096, 0x600000000000, 0}},
      0);
  message.fds.push_back(w.memory.Dup());
  message.fds.push_back(more.Dup());
  w.Say(std::move(message));
  EXPECT_EQ(w.replies.back().payload.size(), 8 + 2 * sizeof(MemoryRegion));
  EXPECT_THAT(w.closed_daemon, HasSubstr("guest memory has changed"));
  EXPECT_FALSE(w.session.daemon_welcome());
  EXPECT_EQ(w.closed_frontend, "");
}

TEST(SessionPostcopyTest, ADeviceThatIsResetMeanwhileWaitsForTheEnd) {
  PostcopyWorld w;
  w.ArriveAndRun();
  w.Say(Request::kResetDevice, true);
  EXPECT_EQ(w.LastReply(), 0u);  // at once: no daemon can come
  EXPECT_FALSE(w.session.frontend_paused());
  EXPECT_FALSE(w.session.daemon_welcome());
  w.End();
  w.Attach();
  EXPECT_TRUE(w.session.daemon_synced());
}

TEST(SessionPostcopyTest, ADaemonMayWaitLongForAPage) {
  PostcopyWorld w;
  w.ArriveAndRun();
  w.daemon_willing = false;
  w.Say(Request::kSetVringEnable, VringState{0, 1});
  w.Run(w.session.Deadline());
  EXPECT_THAT(w.closed_daemon, HasSubstr("for 30000 ms"));
}

// The pages of a ring that no daemon has been through are not here: what the file has in their place is no position.
TEST(SessionPostcopyTest, ARingThatNoDaemonHasServedStandsWhereTheFrontendSaid) {
  PostcopyWorld w;
  w.Arrive();
  w.Advise();
  w.LoseDaemon();
  w.Listen();
  w.Table();
  w.AckTable();
  w.RunRings(4711);
  w.SetUsedIdx(0, 0);
  w.Say(Request::kGetVringBase, VringState{0, 0});
  EXPECT_EQ(w.LastBase(), 4711u);
  EXPECT_EQ(w.closed_frontend, "");
}

TEST(SessionPostcopyTest, ARingThatADaemonHasServedStandsWhereItLeftIt) {
  PostcopyWorld w;
  w.ArriveAndRun(4711);
  w.SetUsedIdx(0, 4800);
  w.SetUsedIdx(1, 4900);
  w.LoseDaemon();
  w.Say(Request::kGetVringBase, VringState{0, 0});
  EXPECT_EQ(w.LastBase(), 4800u);
  // Started again, which no daemon has seen.
  w.StartRing(0, 4800);
  w.SetUsedIdx(0, 1);
  w.Say(Request::kGetVringBase, VringState{0, 0});
  EXPECT_EQ(w.LastBase(), 4800u);
}

TEST(SessionPostcopyTest, AFrontendThatGoesMeanwhileTakesItsPostcopyAlong) {
  PostcopyWorld w;
  w.ArriveAndRun();
  w.LoseDaemon();
  w.Run(w.session.FrontendGone("closed"));
  EXPECT_EQ(w.states.back().postcopy, Postcopy::kNone);
  EXPECT_TRUE(w.session.daemon_welcome());
  EXPECT_EQ(w.session.reason(), "closed");
}

}  // namespace
}  // namespace everport
