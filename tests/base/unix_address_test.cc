#include "backend/base/unix_address.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

#include "backend/base/unique_fd.h"
#include "tests/fakes/temp_dir.h"

namespace everport {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

std::string Refusal(const std::string& path) {
  const auto address = UnixAddress::Of(path);
  EXPECT_EQ(address.status().code(), absl::StatusCode::kInvalidArgument);
  return std::string(address.status().message());
}

TEST(UnixAddress, IsWhereASocketIsBoundAndFound) {
  const fakes::TempDir dir;
  const auto address = UnixAddress::Of(dir / "s");
  ASSERT_TRUE(address.ok()) << address.status();
  const UniqueFd server(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  ASSERT_EQ(::bind(server.get(), address->get(), address->size()), 0);
  ASSERT_EQ(::listen(server.get(), 1), 0);
  EXPECT_EQ(::access((dir / "s").c_str(), F_OK), 0);
  const UniqueFd client(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  EXPECT_EQ(::connect(client.get(), address->get(), address->size()), 0);
}

// The longest path is a whole one: the kernel does not cut it.
TEST(UnixAddress, TakesTheLongestPath) {
  const fakes::TempDir dir;
  const std::string path = (dir / "") + std::string(UnixAddress::kMaxPath - (dir / "").size(), 'x');
  const auto address = UnixAddress::Of(path);
  ASSERT_TRUE(address.ok()) << address.status();
  const UniqueFd server(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  ASSERT_EQ(::bind(server.get(), address->get(), address->size()), 0);
  EXPECT_EQ(::access(path.c_str(), F_OK), 0);
}

TEST(UnixAddress, RefusalNamesThePathAndTheLimit) {
  const std::string path = "/" + std::string(107, 'x');
  EXPECT_THAT(Refusal(path), AllOf(HasSubstr(path), HasSubstr("108 bytes"), HasSubstr("1 to 107")));
  EXPECT_THAT(Refusal(""), HasSubstr("1 to 107"));
}

TEST(UnixAddress, RefusesWhatTheKernelWouldTakeForAnotherPath) {
  EXPECT_THAT(Refusal(std::string("/run/a\0b", 8)), AllOf(HasSubstr("/run/a"), HasSubstr("NUL")));
  Refusal(std::string("\0abstract", 9));
}

}  // namespace
}  // namespace everport
