#include "backend/vhost_user/codec.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/mman.h>

namespace everport::vhost_user {
namespace {

using testing::HasSubstr;

UniqueFd AnyFd() {
  return UniqueFd(::memfd_create("any", MFD_CLOEXEC));
}

std::string Error(const Message& message) {
  return std::string(CheckForm(message).message());
}

TEST(CodecTest, EveryRequestWithARuleHasAName) {
  for (uint32_t value = 0; value < 64; ++value) {
    const auto request = static_cast<Request>(value);
    if (FindRule(request)) {
      EXPECT_FALSE(RequestName(request).empty()) << value;
    }
  }
  EXPECT_EQ(RequestText(Request::kSetMemTable), "SET_MEM_TABLE");
  EXPECT_EQ(RequestText(static_cast<Request>(99)), "request 99");
}

TEST(CodecTest, PayloadSizesAreExact) {
  EXPECT_TRUE(CheckForm(MakeMessage(Request::kSetFeatures, 0, uint64_t{1})).ok());
  EXPECT_THAT(Error(MakeMessage(Request::kSetFeatures, 0, uint32_t{1})), HasSubstr("payload of 4 bytes, expected 8"));
  EXPECT_THAT(Error(MakeMessage(Request::kGetFeatures, 0, uint64_t{1})), HasSubstr("payload of 8 bytes, expected 0"));
  EXPECT_THAT(Error(MakeMessage(Request::kSetVringAddr, 0, VringState{})), HasSubstr("expected 40"));
}

TEST(CodecTest, VersionAndReplyBit) {
  Message message = MakeMessage(Request::kGetFeatures, 0);
  message.flags = 0;
  EXPECT_THAT(Error(message), HasSubstr("version 0"));
  message.flags = kVersion | kFlagReply;
  EXPECT_THAT(Error(message), HasSubstr("a reply"));
}

TEST(CodecTest, AnUnknownRequestHasNoRuleAndPasses) {
  EXPECT_EQ(FindRule(static_cast<Request>(99)), nullptr);
  EXPECT_TRUE(CheckForm(MakeMessage(static_cast<Request>(99), 0, VringAddr{})).ok());
}

TEST(CodecTest, DescriptorsAsManyAsTheRequestHas) {
  Message message = MakeMessage(Request::kSetBackendReqFd, 0);
  EXPECT_THAT(Error(message), HasSubstr("0 descriptors, expected 1"));
  message.fds.push_back(AnyFd());
  EXPECT_TRUE(CheckForm(message).ok());
  message.fds.push_back(AnyFd());
  EXPECT_THAT(Error(message), HasSubstr("2 descriptors"));
}

TEST(CodecTest, KickSaysInItsValueWhetherADescriptorIsThere) {
  Message with = MakeMessage(Request::kSetVringKick, 0, uint64_t{3});
  EXPECT_THAT(Error(with), HasSubstr("0 descriptors, expected 1"));
  with.fds.push_back(AnyFd());
  EXPECT_TRUE(CheckForm(with).ok());
  EXPECT_TRUE(CheckForm(MakeMessage(Request::kSetVringKick, 0, 3 | kVringNoFd)).ok());
  Message both = MakeMessage(Request::kSetVringKick, 0, 3 | kVringNoFd);
  both.fds.push_back(AnyFd());
  EXPECT_THAT(Error(both), HasSubstr("1 descriptors, expected 0"));
  EXPECT_THAT(Error(MakeMessage(Request::kSetVringKick, 0, uint64_t{1} << 40)), HasSubstr("value"));
}

TEST(CodecTest, MemoryTableCountSizeAndDescriptorsAgree) {
  const std::vector<MemoryRegion> regions = {{0, 4096, 8192, 0}, {4096, 4096, 16384, 4096}};
  Message message = EncodeMemTable(regions, 0);
  EXPECT_THAT(Error(message), HasSubstr("0 descriptors for 2 regions"));
  message.fds.push_back(AnyFd());
  message.fds.push_back(AnyFd());
  ASSERT_TRUE(CheckForm(message).ok());
  EXPECT_EQ(DecodeMemTable(message), regions);
  message.payload.pop_back();
  EXPECT_THAT(Error(message), HasSubstr("payload of 71 bytes for 2 regions"));
  message.payload[0] = 9;
  EXPECT_THAT(Error(message), HasSubstr("9 regions"));
  message.payload[0] = 0;
  EXPECT_THAT(Error(message), HasSubstr("0 regions"));
}

TEST(CodecTest, ConfigStaysInsideItsSpaceAndItsPayload) {
  Message message = MakeMessage(Request::kSetConfig, 0, ConfigHeader{4, 2, 0});
  EXPECT_THAT(Error(message), HasSubstr("0 bytes of data where it says 2"));
  message.payload.resize(message.payload.size() + 2);
  EXPECT_TRUE(CheckForm(message).ok());
  EXPECT_THAT(Error(MakeMessage(Request::kGetConfig, 0, ConfigHeader{0xffffffff, 2, 0})), HasSubstr("outside"));
  EXPECT_THAT(Error(MakeMessage(Request::kGetConfig, 0, ConfigHeader{2, 0xffffffff, 0})), HasSubstr("outside"));
}

}  // namespace
}  // namespace everport::vhost_user
