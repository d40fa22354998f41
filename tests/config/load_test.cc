#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

#include "backend/config/config.h"

namespace everport {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::StartsWith;

class LoadConfigTest : public ::testing::Test {
 protected:
  LoadConfigTest() {
    std::string pattern = ::testing::TempDir() + "/configXXXXXX";
    folder_ = ::mkdtemp(pattern.data());
    path_ = folder_ + "/everport.toml";
  }
  ~LoadConfigTest() override { std::filesystem::remove_all(folder_); }

  std::string Refusal() const {
    const auto config = LoadConfig(path_);
    return config.ok() ? "accepted" : std::string(config.status().message());
  }

  std::string folder_, path_;
};

TEST_F(LoadConfigTest, ReadsAFile) {
  std::ofstream(path_) << "[daemon]\nname = \"from-file\"\n";
  EXPECT_EQ(LoadConfig(path_)->daemon.name, "from-file");
}

TEST_F(LoadConfigTest, ErrorsInTheFileNameItsPath) {
  std::ofstream(path_) << "[daemon]\nnane = \"a\"\n";
  EXPECT_EQ(Refusal(), path_ + ":2: daemon.nane: unknown key; did you mean name?");
}

TEST_F(LoadConfigTest, MissingFileSaysSoAndTheMend) {
  EXPECT_TRUE(absl::IsNotFound(LoadConfig(path_).status()));
  EXPECT_THAT(Refusal(), AllOf(StartsWith(path_ + ": "), HasSubstr("No such file"), HasSubstr("create it")));
}

TEST_F(LoadConfigTest, FolderSaysSo) {
  std::filesystem::create_directory(path_);
  EXPECT_THAT(Refusal(), AllOf(StartsWith(path_ + ": "), HasSubstr("Is a directory")));
}

TEST_F(LoadConfigTest, EndlessFileIsRefused) {
  path_ = "/dev/zero";
  EXPECT_THAT(Refusal(), StartsWith("/dev/zero: larger than 1 MiB"));
}

TEST(ExampleConfig, IsValid) {
  const auto config = LoadConfig(EVERPORT_EXAMPLE_CONFIG);
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->ports.size(), 3u);
}

// What the example shows commented out is said to be the default: uncommented, nothing changes.
TEST(ExampleConfig, CommentedLinesAreTheDefaults) {
  std::ifstream file(EVERPORT_EXAMPLE_CONFIG);
  std::string uncommented;
  int lines = 0;
  for (std::string line; std::getline(file, line);) {
    const bool is_default = line.rfind("# ", 0) == 0 && line.find(" = ") != line.npos;
    lines += is_default;
    uncommented += (is_default ? line.substr(2) : line) + "\n";
  }
  EXPECT_EQ(lines, 16);
  const auto config = ParseConfig(uncommented, "uncommented");
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(*config, *LoadConfig(EVERPORT_EXAMPLE_CONFIG));
}

// What is off by default is commented out without a space.
TEST(ExampleConfig, WhatIsOffIsValidToo) {
  std::ifstream file(EVERPORT_EXAMPLE_CONFIG);
  std::string uncommented;
  for (std::string line; std::getline(file, line);) {
    const bool is_off = line.size() > 1 && line[0] == '#' && line[1] != ' ';
    uncommented += (is_off ? line.substr(1) : line) + "\n";
  }
  const auto config = ParseConfig(uncommented, "uncommented");
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_TRUE(config->daemon.listen);
}

}  // namespace
}  // namespace everport
