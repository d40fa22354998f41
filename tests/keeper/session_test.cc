// The session's transitions: front-end, daemon, deadline.

#include "backend/keeper/session.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/epoll.h>

#include "backend/keeper/ring_recovery.h"
#include "tests/keeper/session_world.h"

namespace everport {
namespace {

using testing::HasSubstr;
using vhost_user::Message;
using vhost_user::PayloadAs;
using vhost_user::Request;
using vhost_user::VringState;

constexpr uint64_t kMqFeatures = Bit(kVersion1) | Bit(kNetMq) | Bit(kVhostUserProtocolFeatures);

TEST(SessionTest, QueriesAreAnsweredFromTheContractWithoutADaemon) {
  SessionWorld w(4);
  w.Connect();
  w.Say(Request::kGetFeatures);
  EXPECT_EQ(w.LastReply(), kTestFeatures);
  w.Say(Request::kGetProtocolFeatures);
  EXPECT_EQ(w.LastReply(), kTestProtocol);
  w.Negotiate(Bit(kVersion1));
  w.Say(Request::kGetQueueNum);
  EXPECT_EQ(w.LastReply(), 4u);
  w.Say(Request::kSetStatus, uint64_t{0x0b});
  w.Say(Request::kGetStatus);
  EXPECT_EQ(w.LastReply(), 0x0bu);
  EXPECT_TRUE(w.to_daemon.empty());
}

TEST(SessionTest, ConfigSpaceTellsLinkQueuePairsAndMtu) {
  SessionWorld w(4);
  w.Connect();
  w.Negotiate(Bit(kVersion1));
  Message get = vhost_user::MakeMessage(Request::kGetConfig, 0, vhost_user::ConfigHeader{0, 12, 0});
  get.payload.resize(get.payload.size() + 12);
  w.Say(std::move(get));
  ASSERT_EQ(w.replies.back().payload.size(), 24u);
  const uint8_t* config = w.replies.back().payload.data() + 12;
  EXPECT_EQ(config[6], 1);  // status: link up
  EXPECT_EQ(config[8], 4);  // max_virtqueue_pairs
  EXPECT_EQ(config[10] | config[11] << 8, 1500);
}

TEST(SessionTest, WithoutADaemonStateIsRecordedAndAcknowledged) {
  SessionWorld w;
  w.StartGuest();
  EXPECT_EQ(w.session.state(), SessionState::kRunning);
  EXPECT_EQ(w.LastReply(), 0u);
  EXPECT_EQ(w.closed_frontend, "");
  EXPECT_TRUE(w.session.record().vrings[1].started());
  ASSERT_EQ(w.states.size(), 2u);
  EXPECT_EQ(w.states[0].state, SessionState::kConnected);
}

TEST(SessionTest, ReplayFollowsTheOrderLibrteVhostAccepts) {
  SessionWorld w;
  w.StartGuest();
  w.Say(Request::kSetStatus, uint64_t{0x0f});
  w.Attach();
  EXPECT_EQ(w.Sent(),
            "GET_FEATURES GET_PROTOCOL_FEATURES SET_PROTOCOL_FEATURES SET_OWNER SET_FEATURES GET_QUEUE_NUM "
            "SET_MEM_TABLE "
            "SET_VRING_NUM:0 SET_VRING_BASE:0 SET_VRING_ADDR:0 SET_VRING_CALL:0 SET_VRING_KICK:0 "
            "SET_VRING_NUM:1 SET_VRING_BASE:1 SET_VRING_ADDR:1 SET_VRING_CALL:1 SET_VRING_KICK:1 "
            "SET_VRING_ENABLE:0 SET_VRING_ENABLE:1 SET_STATUS");
  EXPECT_EQ(w.synced, 1);
  EXPECT_EQ(w.called, (std::vector<unsigned>{0, 1}));
  EXPECT_TRUE(w.session.daemon_synced());
  EXPECT_FALSE(w.armed);
}

TEST(SessionTest, ReplayTakesSplitBasesFromUsedIdx) {
  SessionWorld w;
  w.StartGuest();
  w.SetUsedIdx(0, 4711);
  w.SetUsedIdx(1, 65535);
  w.Poke<uint16_t>(w.Addr(0).avail_user_addr + 2, 4799);  // avail idx: must not matter
  w.Attach();
  EXPECT_EQ(PayloadAs<VringState>(*w.Find(Request::kSetVringBase, 0)).num, 4711u);
  EXPECT_EQ(PayloadAs<VringState>(*w.Find(Request::kSetVringBase, 1)).num, 65535u);
}

TEST(SessionTest, ReplayTakesPackedBasesFromTheIndexPage) {
  SessionWorld w;
  w.StartGuest(Bit(kVersion1) | Bit(kRingPacked) | Bit(kVhostUserProtocolFeatures), 0x80008000);
  w.page->vrings[0].head = IndexPageHead(0x8000 | 17, 0);
  w.Attach();
  EXPECT_EQ(PayloadAs<VringState>(*w.Find(Request::kSetVringBase, 0)).num, 0x8000u | 17);
  // No poller has written the other: the base as told holds.
  EXPECT_EQ(PayloadAs<VringState>(*w.Find(Request::kSetVringBase, 1)).num, 0x8000u);
}

TEST(SessionTest, APositionFromTheSessionBeforeIsNotTaken) {
  SessionWorld w;
  w.Connect();
  w.Negotiate(Bit(kVersion1) | Bit(kRingPacked) | Bit(kVhostUserProtocolFeatures));
  w.ShareMemory();
  w.Say(Request::kSetVringNum, VringState{0, SessionWorld::kRing});
  w.Say(Request::kSetVringBase, VringState{0, 0x80008000});
  w.Say(Request::kSetVringAddr, w.Addr(0));
  w.page->vrings[0].head = IndexPageHead(17, 0);  // a poller that came late
  w.Say(Request::kSetVringKick, uint64_t{0}, w.event.get());
  w.Attach();
  EXPECT_EQ(PayloadAs<VringState>(*w.Find(Request::kSetVringBase, 0)).num, 0x8000u);
}

TEST(SessionTest, ReplayRepairsAPackedRingAndLogsThePage) {
  SessionWorld w;
  const uint64_t features = Bit(kVersion1) | Bit(kRingPacked) | Bit(kVhostUserProtocolFeatures) | Bit(kVhostLogAll);
  w.StartGuest(features, 0x80008000);
  UniqueFd log(::memfd_create("log", MFD_CLOEXEC));
  ASSERT_EQ(::ftruncate(log.get(), 4096), 0);
  w.Say(Request::kSetLogBase, vhost_user::LogBase{4096, 0}, log.get());
  // A burst of two; the second chain's used descriptor is written, the first is not (Tx, ring 1).
  const PackedTail available{100, 5, 1 << 7};
  const PackedTail used{0, 6, 1 << 7 | 1 << 15};
  const uint64_t desc = w.Addr(1).desc_user_addr;
  w.Poke(desc + 8, available);
  w.Poke(desc + 16 + 8, used);
  w.page->vrings[1].chains[0] = {.head_len = 100, .head_id = 5, .slots = 1, .last_id = 5, .head_flags = 1 << 7};
  w.page->vrings[1].chains[1] = {.head_len = 200, .head_id = 6, .slots = 1, .last_id = 6, .head_flags = 1 << 7};
  w.page->vrings[1].head = IndexPageHead(0x8000, 2);
  w.Attach();
  EXPECT_EQ(PayloadAs<VringState>(*w.Find(Request::kSetVringBase, 1)).num, 0x8000u);
  EXPECT_EQ(w.Peek<PackedTail>(desc + 8), available);
  EXPECT_EQ(w.Peek<PackedTail>(desc + 16 + 8), (PackedTail{200, 6, 1 << 7}));
  const uint64_t page = (SessionWorld::kGpa + (desc - SessionWorld::kUva)) / 4096;
  uint8_t bits = 0;
  ASSERT_EQ(::pread(log.get(), &bits, 1, static_cast<off_t>(page / 8)), 1);
  EXPECT_TRUE(bits >> page % 8 & 1);
}

// Which bytes of a log of one page are set.
std::vector<off_t> MarkedBytes(int log) {
  std::vector<off_t> marked;
  for (off_t at = 0; at < 4096; ++at) {
    uint8_t bits = 0;
    if (::pread(log, &bits, 1, at) == 1 && bits != 0) marked.push_back(at);
  }
  return marked;
}

TEST(SessionTest, WhatADaemonThatDiedMayHaveWrittenIsMarkedBeforeTheFrontendHasItsRingsBack) {
  SessionWorld w;
  const uint64_t features = Bit(kVersion1) | Bit(kVhostUserProtocolFeatures) | Bit(kVhostLogAll);
  w.StartGuest(features, 0);
  UniqueFd log(::memfd_create("log", MFD_CLOEXEC));
  ASSERT_EQ(::ftruncate(log.get(), 4096), 0);
  w.Say(Request::kSetLogBase, vhost_user::LogBase{4096, 0}, log.get());
  w.Attach();
  constexpr uint64_t kByte = 8 * 4096;  // of guest memory in a byte of the log
  w.page->vrings[0].ranges[0] = {SessionWorld::kGpa + 5 * kByte, 2};
  w.page->vrings[0].ranges[1] = {SessionWorld::kGpa + 8 * kByte - 1, 2};
  w.page->vrings[0].ranges[2] = {SessionWorld::kGpa + 20 * kByte, 1};  // of a burst that is over
  w.page->vrings[0].range_count = 2;
  ASSERT_TRUE(MarkedBytes(log.get()).empty());
  w.Run(w.session.DaemonGone("killed"));
  const off_t first = SessionWorld::kGpa / kByte;
  const off_t used = static_cast<off_t>((SessionWorld::kGpa + w.Addr(0).used_user_addr - SessionWorld::kUva) / kByte);
  const std::vector<off_t> marked = MarkedBytes(log.get());
  EXPECT_THAT(marked, testing::IsSupersetOf({used, first + 5, first + 7, first + 8}));
  EXPECT_THAT(marked, testing::Not(testing::Contains(first + 20)));
}

TEST(SessionTest, NothingIsMarkedWhileTheFrontendDoesNotLog) {
  SessionWorld w;
  w.StartGuest(Bit(kVersion1) | Bit(kVhostUserProtocolFeatures), 0);
  UniqueFd log(::memfd_create("log", MFD_CLOEXEC));
  ASSERT_EQ(::ftruncate(log.get(), 4096), 0);
  w.Say(Request::kSetLogBase, vhost_user::LogBase{4096, 0}, log.get());
  w.Attach();
  w.page->vrings[0].ranges[0] = {SessionWorld::kGpa, 2};
  w.page->vrings[0].range_count = 1;
  w.Run(w.session.DaemonGone("killed"));
  EXPECT_TRUE(MarkedBytes(log.get()).empty());
}

TEST(SessionTest, AnIndexPageThatCountsMoreRangesThanItHasIsReadToItsEnd) {
  SessionWorld w;
  w.StartGuest(Bit(kVersion1) | Bit(kVhostUserProtocolFeatures) | Bit(kVhostLogAll), 0);
  UniqueFd log(::memfd_create("log", MFD_CLOEXEC));
  ASSERT_EQ(::ftruncate(log.get(), 4096), 0);
  w.Say(Request::kSetLogBase, vhost_user::LogBase{4096, 0}, log.get());
  w.Attach();
  w.page->vrings[1].range_count = UINT64_MAX;
  w.page->vrings[1].ranges[kIndexPageRanges - 1] = {4095 * 8 * 4096ull, UINT64_MAX};
  w.Run(w.session.DaemonGone("killed"));
  EXPECT_THAT(MarkedBytes(log.get()), testing::Contains(4095));
}

TEST(SessionTest, AFrontendThatConnectsToAnIdleDaemonIsReplayedAtOnce) {
  SessionWorld w;
  w.Attach();
  EXPECT_TRUE(w.to_daemon.empty());
  w.Connect();
  EXPECT_EQ(w.Sent(), "GET_FEATURES GET_PROTOCOL_FEATURES SET_PROTOCOL_FEATURES SET_OWNER GET_QUEUE_NUM");
  EXPECT_TRUE(w.session.daemon_synced());
}

TEST(SessionTest, ASyncedDaemonGetsEachMessageAndTheFrontendItsAcknowledgementAfterwards) {
  SessionWorld w;
  w.Attach();
  w.Connect();
  w.Negotiate(Bit(kVersion1));
  w.daemon_willing = false;
  const size_t replies = w.replies.size();
  w.ShareMemory();
  EXPECT_EQ(w.to_daemon.back().request, Request::kSetMemTable);
  EXPECT_EQ(w.to_daemon.back().fds.size(), 1u);
  EXPECT_TRUE(w.session.frontend_paused());
  EXPECT_TRUE(w.armed);
  EXPECT_EQ(w.replies.size(), replies);
  w.AnswerOne();
  EXPECT_EQ(w.replies.size(), replies + 1);
  EXPECT_EQ(w.LastReply(), 0u);
  EXPECT_FALSE(w.session.frontend_paused());
  EXPECT_FALSE(w.armed);
}

TEST(SessionTest, ADaemonThatDiesWhileOwingAReplyIsAnsweredFor) {
  SessionWorld w;
  w.Attach();
  w.Connect();
  w.Negotiate(Bit(kVersion1));
  w.daemon_willing = false;
  w.ShareMemory();
  const size_t replies = w.replies.size();
  w.Run(w.session.DaemonGone("closed"));
  EXPECT_EQ(w.replies.size(), replies + 1);
  EXPECT_FALSE(w.session.frontend_paused());
  EXPECT_EQ(w.session.record().memory.size(), 1u);
  EXPECT_EQ(w.closed_frontend, "");
}

TEST(SessionTest, ADaemonThatIsLateIsDroppedAndTheFrontendAnswered) {
  SessionWorld w;
  w.Attach();
  w.Connect();
  w.Negotiate(Bit(kVersion1));
  w.daemon_willing = false;
  w.ShareMemory();
  w.Run(w.session.Deadline());
  EXPECT_THAT(w.closed_daemon, HasSubstr("SET_MEM_TABLE"));
  EXPECT_TRUE(w.held_back);
  EXPECT_FALSE(w.session.frontend_paused());
  EXPECT_TRUE(w.session.daemon_welcome());
  EXPECT_THAT(w.session.reason(), HasSubstr("2000 ms"));
}

TEST(SessionTest, ADaemonThatIsLateInTheReplayIsDropped) {
  SessionWorld w;
  w.StartGuest();
  w.daemon_willing = false;
  w.Attach();
  EXPECT_TRUE(w.session.frontend_paused());
  w.AnswerOne();
  w.Run(w.session.Deadline());
  EXPECT_THAT(w.closed_daemon, HasSubstr("GET_PROTOCOL_FEATURES"));
  EXPECT_FALSE(w.session.frontend_paused());
}

TEST(SessionTest, TheNextDaemonIsGivenTheSameSession) {
  SessionWorld w(2);
  w.StartGuest(kMqFeatures);
  w.Attach();
  const std::string first = w.Sent();
  w.Run(w.session.DaemonGone("closed"));
  EXPECT_EQ(w.session.state(), SessionState::kRunning);
  const size_t from = w.to_daemon.size();
  w.Attach();
  EXPECT_EQ(w.Sent(from), first);
  EXPECT_EQ(w.synced, 2);
}

TEST(SessionTest, ADaemonThatLacksAFeatureIsRefusedByName) {
  SessionWorld w;
  w.StartGuest(Bit(kVersion1) | Bit(kRingPacked) | Bit(kVhostUserProtocolFeatures), 0x80008000);
  w.daemon_features &= ~Bit(kRingPacked);
  w.Attach();
  EXPECT_THAT(w.closed_daemon, HasSubstr("VIRTIO_F_RING_PACKED"));
  EXPECT_TRUE(w.held_back);
  EXPECT_THAT(w.states.back().reason, HasSubstr("VIRTIO_F_RING_PACKED"));
  EXPECT_EQ(w.session.state(), SessionState::kRunning);
  w.daemon_features = kTestFeatures;
  w.Attach();
  EXPECT_TRUE(w.session.daemon_synced());
  EXPECT_EQ(w.session.reason(), "");
}

TEST(SessionTest, ADaemonWithTooFewQueuePairsIsRefused) {
  SessionWorld w(4);
  w.StartGuest(kMqFeatures);
  w.daemon_queue_pairs = 2;
  w.Attach();
  EXPECT_THAT(w.closed_daemon, HasSubstr("2 queue pairs of 4"));
}

TEST(SessionTest, ADaemonThatRefusesAStepIsDroppedWithTheStepsName) {
  SessionWorld w;
  w.StartGuest();
  w.daemon_refuses = Request::kSetVringAddr;
  w.Attach();
  EXPECT_THAT(w.closed_daemon, HasSubstr("SET_VRING_ADDR"));
  EXPECT_TRUE(w.held_back);
  EXPECT_EQ(w.closed_frontend, "");
}

TEST(SessionTest, ADaemonThatSpeaksUnaskedIsDropped) {
  SessionWorld w;
  w.Attach();
  w.Run(w.session.DaemonMessage(vhost_user::MakeReply(Request::kGetFeatures, 1)));
  EXPECT_THAT(w.closed_daemon, HasSubstr("unasked"));
}

TEST(SessionTest, GetVringBaseIsTheDaemonsWhileItIsThere) {
  SessionWorld w;
  w.StartGuest();
  w.Attach();
  w.daemon_base = 321;
  w.SetUsedIdx(0, 7);
  w.Say(Request::kGetVringBase, VringState{0, 0}, -1, false);
  EXPECT_EQ(w.LastBase(), 321u);
  EXPECT_FALSE(w.session.record().vrings[0].started());
  EXPECT_EQ(w.session.state(), SessionState::kConnected);
}

TEST(SessionTest, GetVringBaseIsReadFromUsedIdxWithoutADaemon) {
  SessionWorld w;
  w.StartGuest();
  w.SetUsedIdx(1, 99);
  w.Say(Request::kGetVringBase, VringState{1, 0}, -1, false);
  EXPECT_EQ(w.LastBase(), 99u);
  // Asked again, of a stopped ring, it is the same.
  w.SetUsedIdx(1, 0);
  w.Say(Request::kGetVringBase, VringState{1, 0}, -1, false);
  EXPECT_EQ(w.LastBase(), 99u);
}

TEST(SessionTest, GetVringBaseOfAPackedRingGivesBothPositions) {
  SessionWorld w;
  w.StartGuest(Bit(kVersion1) | Bit(kRingPacked) | Bit(kVhostUserProtocolFeatures), 0x80008000);
  w.page->vrings[0].head = IndexPageHead(5, 0);
  w.Say(Request::kGetVringBase, VringState{0, 0}, -1, false);
  EXPECT_EQ(w.LastBase(), 0x00050005u);
  EXPECT_EQ(w.page->vrings[0].head, 0u);  // the next base that is told holds
}

TEST(SessionTest, GetVringBaseWhenTheDaemonDiesOverItIsReadFromMemory) {
  SessionWorld w;
  w.StartGuest();
  w.Attach();
  w.SetUsedIdx(0, 12);
  w.daemon_willing = false;
  w.Say(Request::kGetVringBase, VringState{0, 0}, -1, false);
  w.Run(w.session.DaemonGone("closed"));
  EXPECT_EQ(w.LastBase(), 12u);
}

TEST(SessionTest, ATruncatedMemoryFileLeavesTheBaseAsTold) {
  SessionWorld w;
  w.StartGuest();
  ASSERT_EQ(::ftruncate(w.memory.get(), 0), 0);
  w.Say(Request::kGetVringBase, VringState{0, 0}, -1, false);
  EXPECT_EQ(w.LastBase(), 0u);
  ASSERT_FALSE(w.notes.empty());
  EXPECT_THAT(w.notes.back(), HasSubstr("ring 0"));
}

TEST(SessionTest, AMemoryTableWhileRingsRunGoesThroughAResync) {
  SessionWorld w;
  w.StartGuest();
  w.Attach();
  const size_t replies = w.replies.size(), from = w.to_daemon.size();
  w.ShareMemory();
  EXPECT_THAT(w.closed_daemon, HasSubstr("SET_MEM_TABLE"));
  EXPECT_FALSE(w.held_back);
  EXPECT_TRUE(w.session.frontend_paused());
  EXPECT_EQ(w.replies.size(), replies);
  w.Attach();
  EXPECT_THAT(w.Sent(from), HasSubstr("SET_MEM_TABLE"));
  EXPECT_EQ(w.replies.size(), replies + 1);
  EXPECT_EQ(w.LastReply(), 0u);
}

TEST(SessionTest, AResyncWhoseDaemonStaysAwayIsAnsweredAtTheDeadline) {
  SessionWorld w;
  w.StartGuest();
  w.Attach();
  w.ShareMemory();
  const size_t replies = w.replies.size();
  EXPECT_TRUE(w.armed);
  w.Run(w.session.Deadline());
  EXPECT_EQ(w.replies.size(), replies + 1);
  EXPECT_FALSE(w.session.frontend_paused());
}

TEST(SessionTest, ASecondLogGoesThroughAResyncTheFirstDoesNot) {
  SessionWorld w;
  w.StartGuest();
  w.Attach();
  UniqueFd log(::memfd_create("log", MFD_CLOEXEC));
  ASSERT_EQ(::ftruncate(log.get(), 4096), 0);
  w.Say(Request::kSetLogBase, vhost_user::LogBase{4096, 0}, log.get(), false);
  EXPECT_EQ(w.to_daemon.back().request, Request::kSetLogBase);
  EXPECT_EQ(w.replies.back().request, Request::kSetLogBase);
  EXPECT_TRUE(w.session.daemon_synced());
  w.Say(Request::kSetLogBase, vhost_user::LogBase{4096, 0}, log.get(), false);
  EXPECT_FALSE(w.session.daemon_synced());
  w.Attach();
  EXPECT_TRUE(w.session.daemon_synced());
  EXPECT_EQ(w.replies.back().request, Request::kSetLogBase);
}

TEST(SessionTest, LogAllComesAndGoesWhileRingsRunOtherFeaturesDoNot) {
  SessionWorld w;
  const uint64_t features = Bit(kVersion1) | Bit(kVhostUserProtocolFeatures);
  w.StartGuest(features);
  w.Attach();
  w.Say(Request::kSetFeatures, features | Bit(kVhostLogAll));
  EXPECT_EQ(w.to_daemon.back().request, Request::kSetFeatures);
  EXPECT_TRUE(w.session.daemon_synced());
  w.Say(Request::kSetFeatures, features);
  EXPECT_EQ(w.closed_frontend, "");
  w.Say(Request::kSetFeatures, features | Bit(kNetMrgRxbuf));
  EXPECT_THAT(w.closed_frontend, HasSubstr("VIRTIO_NET_F_MRG_RXBUF"));
}

TEST(SessionTest, ResetDeviceStopsAllAndGoesThroughAResync) {
  SessionWorld w;
  w.StartGuest();
  w.Attach();
  w.Say(Request::kResetDevice, true);
  EXPECT_FALSE(w.session.daemon_attached());
  EXPECT_EQ(w.session.state(), SessionState::kConnected);
  w.Attach();
  EXPECT_EQ(w.LastReply(), 0u);
  EXPECT_FALSE(w.session.record().features_told);
  EXPECT_EQ(w.session.record().memory.size(), 1u);
}

TEST(SessionTest, SendRarpIsAnnouncedAndNotPassedOn) {
  SessionWorld w;
  w.StartGuest();
  w.Attach();
  const size_t sent = w.to_daemon.size();
  w.Say(Request::kSendRarp, std::array<uint8_t, 8>{0x52, 0x54, 0, 0, 0, 2, 0, 0});
  ASSERT_EQ(w.announced.size(), 1u);
  EXPECT_EQ(w.announced[0], (std::array<uint8_t, 6>{0x52, 0x54, 0, 0, 0, 2}));
  EXPECT_EQ(w.to_daemon.size(), sent);
}

TEST(SessionTest, AnMtuAboveThePortsIsRefused) {
  SessionWorld w;
  w.Connect();
  w.Negotiate(Bit(kVersion1));
  w.Say(Request::kNetSetMtu, uint64_t{1501});
  EXPECT_EQ(w.LastReply(), 1u);
  w.Say(Request::kNetSetMtu, uint64_t{1400});
  EXPECT_EQ(w.LastReply(), 0u);
  EXPECT_EQ(w.session.record().mtu, 1400);
  w.Attach();
  EXPECT_THAT(w.Sent(), HasSubstr("NET_SET_MTU"));
}

TEST(SessionTest, AnUnknownRequestIsRefusedIfAskedForAnAnswerElseIgnored) {
  SessionWorld w;
  w.Connect();
  w.Negotiate(Bit(kVersion1));
  w.Say(static_cast<Request>(99), true);
  EXPECT_EQ(w.LastReply(), 1u);
  const size_t replies = w.replies.size();
  w.Say(static_cast<Request>(99), false);
  w.Say(static_cast<Request>(99), false);
  EXPECT_EQ(w.replies.size(), replies);
  EXPECT_EQ(w.notes.size(), 1u);
  EXPECT_EQ(w.closed_frontend, "");
}

TEST(SessionTest, ARequestThatWouldHangOrLoseStateUnansweredEndsTheSession) {
  SessionWorld w;
  w.Connect();
  w.Say(Request::kGetMaxMemSlots);
  EXPECT_THAT(w.closed_frontend, HasSubstr("GET_MAX_MEM_SLOTS"));
}

TEST(SessionTest, TheFrontendsEndClearsEverythingAndBeginsANewGeneration) {
  SessionWorld w;
  w.StartGuest();
  w.Attach();
  w.page->vrings[3].head = IndexPageHead(1, 1);
  const uint64_t generation = w.page->generation;
  w.Run(w.session.FrontendGone("closed"));
  EXPECT_EQ(w.session.state(), SessionState::kWaiting);
  EXPECT_NE(w.closed_daemon, "");
  EXPECT_FALSE(w.held_back);
  EXPECT_EQ(w.page->generation, generation + 1);
  EXPECT_EQ(w.page->vrings[3].head, 0u);
  EXPECT_TRUE(w.session.record().memory.empty());
  EXPECT_FALSE(w.session.record().vrings[0].kick.valid());
  // And again, from the start.
  w.StartGuest();
  w.Attach();
  EXPECT_EQ(w.session.state(), SessionState::kRunning);
}

TEST(SessionTest, WithoutMqOnlyTheFirstPairIsReplayed) {
  SessionWorld w(4);
  w.Connect();
  w.Negotiate(Bit(kVersion1) | Bit(kVhostUserProtocolFeatures));
  w.ShareMemory();
  for (uint32_t ring = 0; ring < 2; ++ring) w.StartRing(ring);
  // QEMU tells the calls of all pairs, whatever the guest uses.
  for (uint32_t ring = 2; ring < 8; ++ring) w.Say(Request::kSetVringCall, uint64_t{ring}, w.event.get());
  EXPECT_EQ(w.closed_frontend, "");
  w.Attach();
  EXPECT_EQ(w.Find(Request::kSetVringEnable, 2), nullptr);
  w.Run(w.session.FrontendGone("closed"));
  const size_t from = w.to_daemon.size();
  w.StartGuest(kMqFeatures);
  w.Attach();
  EXPECT_NE(w.Find(Request::kSetVringEnable, 7, from), nullptr);
}

TEST(SessionTest, WithoutMqAKickOfTheSecondPairEndsTheSession) {
  SessionWorld w(2);
  w.Connect();
  w.Negotiate(Bit(kVersion1) | Bit(kVhostUserProtocolFeatures));
  w.ShareMemory();
  w.StartRing(1);
  EXPECT_EQ(w.closed_frontend, "");
  w.StartRing(2);
  EXPECT_THAT(w.closed_frontend, HasSubstr("SET_VRING_KICK: ring 2 without VIRTIO_NET_F_MQ"));
}

// A migration's target enables its queues when the guest's state is loaded, before SET_FEATURES.
TEST(SessionTest, ARingOfTheSecondPairMayBeEnabledBeforeTheFeaturesAreTold) {
  SessionWorld w(2);
  w.Connect();
  w.Say(Request::kSetVringEnable, VringState{2, 1});
  EXPECT_EQ(w.closed_frontend, "");
  EXPECT_TRUE(w.session.record().vrings[2].enabled);
}

// Whatever breaks a rule ends that session, with a reason that names it.
struct Offence {
  const char* name;
  const char* reason;
  std::function<void(SessionWorld&)> commit;
};

class OffenceTest : public testing::TestWithParam<Offence> {};

TEST_P(OffenceTest, EndsTheSessionWithAReason) {
  SessionWorld w;
  w.Attach();
  w.Connect();
  w.Negotiate(Bit(kVersion1) | Bit(kVhostUserProtocolFeatures));
  GetParam().commit(w);
  EXPECT_THAT(w.closed_frontend, HasSubstr(GetParam().reason));
  EXPECT_EQ(w.session.state(), SessionState::kWaiting);
  EXPECT_EQ(w.session.reason(), w.closed_frontend);
  EXPECT_TRUE(w.session.record().memory.empty());
}

Message Table(SessionWorld& w, std::vector<vhost_user::MemoryRegion> regions) {
  Message message = vhost_user::EncodeMemTable(regions, 0);
  for (size_t i = 0; i < regions.size(); ++i) message.fds.push_back(w.memory.Dup());
  return message;
}

const Offence kOffences[] = {
    {"FeatureNotOffered", "VIRTIO_NET_F_CSUM", [](SessionWorld& w) { w.Say(Request::kSetFeatures, Bit(kNetCsum)); }},
    {"ProtocolFeatureNotOffered", "SET_PROTOCOL_FEATURES",
     [](SessionWorld& w) { w.Say(Request::kSetProtocolFeatures, Bit(12)); }},
    {"ShortPayload", "SET_FEATURES: payload of 4 bytes",
     [](SessionWorld& w) { w.Say(Request::kSetFeatures, uint32_t{0}); }},
    {"TooManyFds", "SET_FEATURES: 1 descriptors",
     [](SessionWorld& w) { w.Say(Request::kSetFeatures, uint64_t{0}, w.memory.get()); }},
    {"WrongVersion", "version 2",
     [](SessionWorld& w) {
       Message m = vhost_user::MakeMessage(Request::kGetFeatures, 0);
       m.flags = 2;
       w.Say(std::move(m));
     }},
    {"NineRegions", "SET_MEM_TABLE",
     [](SessionWorld& w) { w.Say(Table(w, std::vector<vhost_user::MemoryRegion>(9))); }},
    {"NoRegion", "SET_MEM_TABLE: 0 regions", [](SessionWorld& w) { w.Say(Table(w, {})); }},
    {"EmptyRegion", "region 0 is empty",
     [](SessionWorld& w) {
       w.Say(Table(w, {{0, 0, 0, 0}}));
     }},
    {"UnalignedRegion", "not page-aligned",
     [](SessionWorld& w) {
       w.Say(Table(w, {{0, 4096, 0x1001, 0}}));
     }},
    {"RegionWraps", "round the end",
     [](SessionWorld& w) {
       w.Say(Table(w, {{~uint64_t{0xfff}, 8192, 0x1000, 0}}));
     }},
    {"RegionBeyondItsFile", "beyond its file",
     [](SessionWorld& w) {
       w.Say(Table(w, {{0, SessionWorld::kMemory, 0x1000, 4096}}));
     }},
    {"OverlapInGuestPhysical", "overlaps region 0",
     [](SessionWorld& w) {
       w.Say(Table(w, {{0, 8192, 0x10000, 0}, {4096, 4096, 0x20000, 0}}));
     }},
    {"OverlapInFrontendAddresses", "overlaps region 0",
     [](SessionWorld& w) {
       w.Say(Table(w, {{0, 8192, 0x10000, 0}, {0x100000, 4096, 0x11000, 0}}));
     }},
    {"MemoryThatIsNoFile", "share=on",
     [](SessionWorld& w) {
       Message m = vhost_user::EncodeMemTable({{0, 4096, 0x1000, 0}}, 0);
       m.fds.push_back(w.event.Dup());
       w.Say(std::move(m));
     }},
    {"RingIndexOutOfRange", "ring 2 of a port with 2 rings",
     [](SessionWorld& w) {
       w.Say(Request::kSetVringNum, VringState{2, 64});
     }},
    {"KickIndexOutOfRange", "ring 200",
     [](SessionWorld& w) { w.Say(Request::kSetVringKick, uint64_t{200}, w.event.get()); }},
    {"CallThatIsNoEventFd", "SET_VRING_CALL: ring 1: its descriptor: not an eventfd",
     [](SessionWorld& w) { w.Say(Request::kSetVringCall, uint64_t{1}, w.memory.get()); }},
    {"KickThatIsNoEventFd", "SET_VRING_KICK: ring 0: its descriptor: not an eventfd",
     [](SessionWorld& w) { w.Say(Request::kSetVringKick, uint64_t{0}, w.memory.get()); }},
    {"ErrThatIsNoEventFd", "SET_VRING_ERR: ring 0: its descriptor: not an eventfd",
     [](SessionWorld& w) {
       UniqueFd epoll(::epoll_create1(EPOLL_CLOEXEC));  // an anonymous inode, too
       w.Say(Request::kSetVringErr, uint64_t{0}, epoll.get());
     }},
    {"RingSizeZero", "a ring of 0",
     [](SessionWorld& w) {
       w.Say(Request::kSetVringNum, VringState{0, 0});
     }},
    {"RingSizeAboveContract", "a ring of 2048",
     [](SessionWorld& w) {
       w.Say(Request::kSetVringNum, VringState{0, 2048});
     }},
    {"SplitRingNoPowerOfTwo", "power of two",
     [](SessionWorld& w) {
       w.Say(Request::kSetVringNum, VringState{0, 60});
     }},
    {"AddrBeforeMemory", "before SET_MEM_TABLE", [](SessionWorld& w) { w.Say(Request::kSetVringAddr, w.Addr(0)); }},
    {"AddrBeforeNum", "before SET_VRING_NUM",
     [](SessionWorld& w) {
       w.ShareMemory();
       w.Say(Request::kSetVringAddr, w.Addr(0));
     }},
    {"RingOutsideMemory", "descriptors outside guest memory",
     [](SessionWorld& w) {
       w.ShareMemory();
       w.Say(Request::kSetVringNum, VringState{0, 64});
       auto addr = w.Addr(0);
       addr.desc_user_addr = SessionWorld::kUva + SessionWorld::kMemory - 16;
       w.Say(Request::kSetVringAddr, addr);
     }},
    {"RingUnaligned", "used ring not aligned to 4",
     [](SessionWorld& w) {
       w.ShareMemory();
       w.Say(Request::kSetVringNum, VringState{0, 64});
       auto addr = w.Addr(0);
       addr.used_user_addr += 2;
       w.Say(Request::kSetVringAddr, addr);
     }},
    {"KickBeforeAddr", "before SET_VRING_ADDR",
     [](SessionWorld& w) { w.Say(Request::kSetVringKick, uint64_t{0}, w.event.get()); }},
    {"KickAfterTheLayoutChanged", "outside guest memory",
     [](SessionWorld& w) {
       w.Say(Request::kSetFeatures, Bit(kVersion1) | Bit(kRingPacked));
       w.ShareMemory();
       w.Say(Request::kSetVringNum, VringState{0, 64});
       auto addr = w.Addr(0);
       addr.avail_user_addr = SessionWorld::kUva + SessionWorld::kMemory - 4;  // fits a packed ring's event area only
       w.Say(Request::kSetVringAddr, addr);
       w.Say(Request::kSetFeatures, Bit(kVersion1));
       w.Say(Request::kSetVringKick, uint64_t{0}, w.event.get());
     }},
    {"PackedBaseBeyondTheRing", "base 64 of 64",
     [](SessionWorld& w) {
       w.Say(Request::kSetFeatures, Bit(kVersion1) | Bit(kRingPacked));
       w.ShareMemory();
       w.StartRing(0, 0x80008000 | 64);
     }},
    {"NumOfAStartedRing", "is started",
     [](SessionWorld& w) {
       w.ShareMemory();
       w.StartRing(0);
       w.Say(Request::kSetVringNum, VringState{0, 32});
     }},
    {"AddrOfAStartedRingMoves", "moves while started",
     [](SessionWorld& w) {
       w.ShareMemory();
       w.StartRing(0);
       auto addr = w.Addr(1);
       addr.index = 0;
       w.Say(Request::kSetVringAddr, addr);
     }},
    {"StartedRingOutsideNewMemory", "outside the new table",
     [](SessionWorld& w) {
       w.ShareMemory();
       w.StartRing(0);
       w.Say(Table(w, {{0, 4096, 0x1000, 0}}));
     }},
    {"EnableNeitherZeroNorOne", "neither 0 nor 1",
     [](SessionWorld& w) {
       w.Say(Request::kSetVringEnable, VringState{0, 2});
     }},
    {"LogLongerThanItsFile", "bytes of a file",
     [](SessionWorld& w) {
       w.Say(Request::kSetLogBase, vhost_user::LogBase{SessionWorld::kMemory + 1, 0}, w.memory.get());
     }},
    {"ConfigOutsideItsSpace", "outside the 256 bytes",
     [](SessionWorld& w) {
       w.Say(Request::kGetConfig, vhost_user::ConfigHeader{250, 10, 0});
     }},
};

INSTANTIATE_TEST_SUITE_P(Rules, OffenceTest, testing::ValuesIn(kOffences),
                         [](const auto& param) { return std::string(param.param.name); });

}  // namespace
}  // namespace everport
