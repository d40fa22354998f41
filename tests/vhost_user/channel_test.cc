#include "backend/vhost_user/channel.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cstring>
#include <filesystem>

#include "backend/base/send_fds.h"
#include "backend/vhost_user/codec.h"

namespace everport::vhost_user {
namespace {

using testing::HasSubstr;

size_t OpenFds() {
  const auto dir = std::filesystem::directory_iterator("/proc/self/fd");
  return static_cast<size_t>(std::distance(begin(dir), end(dir)));
}

class ChannelTest : public testing::Test {
 protected:
  ChannelTest() {
    int pair[2];
    EXPECT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
    channel_.emplace(UniqueFd(pair[0]));
    peer_.reset(pair[1]);
  }

  // Raw bytes from the peer, with n descriptors.
  void Throw(const void* bytes, size_t size, int n = 0) {
    UniqueFd any(::eventfd(0, EFD_CLOEXEC));
    const std::vector<int> fds(static_cast<size_t>(n), any.get());
    ASSERT_EQ(SendWithFds(peer_.get(), bytes, size, fds, MSG_NOSIGNAL), static_cast<ssize_t>(size));
  }
  std::string Error() {
    const auto message = channel_->Receive();
    return message.ok() ? "" : std::string(message.status().message());
  }

  std::optional<Channel> channel_;
  UniqueFd peer_;
};

TEST_F(ChannelTest, AMessageComesWholeWhateverPiecesItArrivesIn) {
  uint8_t bytes[20] = {};
  const Header header{2, kVersion, 8};
  std::memcpy(bytes, &header, sizeof header);
  bytes[12] = 42;
  for (size_t i = 0; i + 1 < sizeof bytes; ++i) {
    Throw(bytes + i, 1);
    const auto message = channel_->Receive();
    ASSERT_TRUE(message.ok() && !message->has_value()) << i;
    EXPECT_TRUE(channel_->mid_message());
  }
  Throw(bytes + 19, 1);
  const auto message = channel_->Receive();
  ASSERT_TRUE(message.ok() && message->has_value());
  EXPECT_EQ((*message)->request, Request::kSetFeatures);
  EXPECT_EQ(PayloadAs<uint64_t>(**message), 42u);
  EXPECT_FALSE(channel_->mid_message());
}

TEST_F(ChannelTest, MessagesThatArriveTogetherComeOneByOne) {
  const Header two[2] = {{1, kVersion, 0}, {15, kVersion, 0}};
  Throw(two, sizeof two);
  EXPECT_EQ((**channel_->Receive()).request, Request::kGetFeatures);
  EXPECT_EQ((**channel_->Receive()).request, Request::kGetProtocolFeatures);
  EXPECT_FALSE(channel_->Receive()->has_value());
}

TEST_F(ChannelTest, DescriptorsArriveCloseOnExecAndAreOwned) {
  const size_t before = OpenFds();
  const Header header{1, kVersion, 0};
  Throw(&header, sizeof header, 8);
  {
    const auto message = channel_->Receive();
    ASSERT_TRUE(message.ok() && message->has_value());
    ASSERT_EQ((*message)->fds.size(), 8u);
    EXPECT_EQ(::fcntl((*message)->fds[7].get(), F_GETFD), FD_CLOEXEC);
  }
  EXPECT_EQ(OpenFds(), before);
}

TEST_F(ChannelTest, NineDescriptorsAreRefusedAndNoneStaysOpen) {
  const size_t before = OpenFds();
  const Header header{1, kVersion, 0};
  Throw(&header, sizeof header, 9);
  EXPECT_THAT(Error(), HasSubstr("more than 8 descriptors"));
  channel_.reset();
  EXPECT_EQ(OpenFds(), before - 1);
}

TEST_F(ChannelTest, DescriptorsInTheMiddleAreRefused) {
  const Header header{2, kVersion, 8};
  Throw(&header, sizeof header);
  const uint64_t value = 0;
  Throw(&value, sizeof value, 1);
  EXPECT_THAT(Error(), HasSubstr("in the middle"));
}

TEST_F(ChannelTest, ATooLongPayloadIsRefusedByItsHeader) {
  const Header header{2, kVersion, kMaxPayload + 1};
  Throw(&header, sizeof header);
  EXPECT_THAT(Error(), HasSubstr("SET_FEATURES: payload of 1025 bytes"));
}

TEST_F(ChannelTest, ThePeersEndBetweenAndInsideMessages) {
  peer_.reset();
  EXPECT_TRUE(absl::IsUnavailable(channel_->Receive().status()));
}

TEST_F(ChannelTest, ThePeersEndInsideAMessageIsDataLoss) {
  Throw("abc", 3);
  peer_.reset();
  EXPECT_TRUE(absl::IsDataLoss(channel_->Receive().status()));
}

TEST_F(ChannelTest, WhatThePeerDoesNotReadIsQueuedUpToALimit) {
  absl::Status status;
  size_t sent = 0;
  for (; sent < 100'000 && status.ok(); ++sent) status = channel_->Send(MakeReply(Request::kGetFeatures, sent));
  EXPECT_TRUE(absl::IsResourceExhausted(status)) << status;
  EXPECT_TRUE(channel_->wants_write());
  // Read by the peer, it comes in order and whole.
  Channel other(std::move(peer_));
  for (uint64_t i = 0; i + 1 < sent; ++i) {
    auto message = other.Receive();
    if (message.ok() && !message->has_value()) {
      ASSERT_TRUE(channel_->Flush().ok());
      message = other.Receive();
    }
    ASSERT_TRUE(message.ok() && message->has_value()) << i;
    ASSERT_EQ(PayloadAs<uint64_t>(**message), i);
  }
  EXPECT_FALSE(channel_->wants_write());
}

TEST_F(ChannelTest, DescriptorsSentArriveWithTheirMessage) {
  Channel other(std::move(peer_));
  Message message = MakeMessage(Request::kSetVringKick, 0, uint64_t{1});
  message.fds.emplace_back(::eventfd(7, EFD_CLOEXEC));
  ASSERT_TRUE(channel_->Send(std::move(message)).ok());
  const auto got = other.Receive();
  ASSERT_TRUE(got.ok() && got->has_value());
  ASSERT_EQ((*got)->fds.size(), 1u);
  uint64_t value = 0;
  EXPECT_EQ(::read((*got)->fds[0].get(), &value, sizeof value), 8);
  EXPECT_EQ(value, 7u);
}

}  // namespace
}  // namespace everport::vhost_user
