#include "numa/topology.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

#include "absl/strings/str_cat.h"

namespace everport {
namespace {

namespace fs = std::filesystem;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

// A sysfs made of files.
class TopologyTest : public ::testing::Test {
 protected:
  TopologyTest() {
    std::string pattern = ::testing::TempDir() + "/topologyXXXXXX";
    root_ = ::mkdtemp(pattern.data());
  }
  ~TopologyTest() override { fs::remove_all(root_); }

  void Write(const std::string& path, const std::string& text) {
    const fs::path file = fs::path(root_) / "sys/devices/system" / path;
    fs::create_directories(file.parent_path());
    std::ofstream(file) << text;
  }

  std::string root_;
};

const Topology kTwoNodes{{{0, {0, 1}}, {1, {2, 3}}}};

TEST_F(TopologyTest, ReadsNodesAndTheirCpus) {
  Write("cpu/online", "0-3\n");
  Write("node/node0/cpulist", "0-1\n");
  Write("node/node1/cpulist", "2-3\n");
  Write("node/possible", "0-10\n");
  EXPECT_EQ(*ReadTopology(root_), kTwoNodes);
}

// A folder lists its entries in any order.
TEST_F(TopologyTest, NodesAreInOrderOfTheirNumbers) {
  Write("cpu/online", "0\n");
  for (int i = 0; i < 32; ++i) Write(absl::StrCat("node/node", i * 7 % 32, "/cpulist"), "\n");
  const auto topology = ReadTopology(root_);
  ASSERT_EQ(topology->nodes.size(), 32u);
  for (int i = 0; i < 32; ++i) EXPECT_EQ(topology->nodes[i].id, i);
}

TEST_F(TopologyTest, WithoutNodeFoldersAllOnlineCpusAreNodeZero) {
  Write("cpu/online", "0,2\n");
  EXPECT_EQ(*ReadTopology(root_), (Topology{{{0, {0, 2}}}}));
}

TEST_F(TopologyTest, OfflineCpusAreLeftOutAndMemoryOnlyNodesKept) {
  Write("cpu/online", "0\n");
  Write("node/node0/cpulist", "0-1\n");
  Write("node/node1/cpulist", "\n");
  EXPECT_EQ(*ReadTopology(root_), (Topology{{{0, {0}}, {1, {}}}}));
}

TEST_F(TopologyTest, NoSysfsIsNotFoundAndNamesTheFile) {
  const auto topology = ReadTopology(root_);
  EXPECT_TRUE(absl::IsNotFound(topology.status()));
  EXPECT_THAT(std::string(topology.status().message()), HasSubstr("/sys/devices/system/cpu/online"));
}

TEST_F(TopologyTest, GarbageNamesTheFile) {
  Write("cpu/online", "0-1\n");
  Write("node/node0/cpulist", "zero\n");
  const auto topology = ReadTopology(root_);
  EXPECT_TRUE(absl::IsInvalidArgument(topology.status()));
  EXPECT_THAT(std::string(topology.status().message()), HasSubstr("node0/cpulist: \"zero\""));
}

TEST_F(TopologyTest, ThisMachineHasTheCpusWeMayRunOn) {
  const auto topology = ReadTopology();
  ASSERT_TRUE(topology.ok()) << topology.status();
  const auto allowed = AllowedCpus();
  ASSERT_FALSE(allowed.empty());
  for (const unsigned cpu : allowed) EXPECT_GE(topology->NodeOfCpu(cpu), 0) << cpu;
  EXPECT_EQ(topology->NodeOfCpu(8000), -1);
}

TEST(AutoPollers, OneForEachNodeWithAllowedCpusFloatingOverThem) {
  EXPECT_THAT(*AutoPollers(kTwoNodes, {0, 2, 3}), ElementsAre(PollerCpus{{0}, 0}, PollerCpus{{2, 3}, 1}));
  EXPECT_THAT(*AutoPollers(kTwoNodes, {3}), ElementsAre(PollerCpus{{3}, 1}));
}

TEST(AutoPollers, NoAllowedCpuIsAnError) {
  const auto pollers = AutoPollers(kTwoNodes, {9});
  EXPECT_TRUE(absl::IsFailedPrecondition(pollers.status()));
  EXPECT_THAT(std::string(pollers.status().message()), HasSubstr("allowed CPUs (9)"));
}

TEST(PinnedPollers, OneForEachCpuInTheListsOrder) {
  EXPECT_THAT(*PinnedPollers(kTwoNodes, {0, 1, 2, 3}, {3, 0}), ElementsAre(PollerCpus{{3}, 1}, PollerCpus{{0}, 0}));
}

TEST(PinnedPollers, OfflineForbiddenOrRepeatedCpuIsNamed) {
  const auto message = [](const std::vector<unsigned>& allowed, const std::vector<unsigned>& wanted) {
    const auto pollers = PinnedPollers(kTwoNodes, allowed, wanted);
    EXPECT_TRUE(absl::IsInvalidArgument(pollers.status()));
    return std::string(pollers.status().message());
  };
  EXPECT_EQ(message({0, 1, 2, 3, 7}, {1, 7}), "pollers: CPU 7 is not online; choose among 0-3");
  EXPECT_THAT(message({0, 1}, {2}), HasSubstr("CPU 2 is not allowed to this process; choose among 0-1"));
  EXPECT_THAT(message({0, 1}, {1, 1}), HasSubstr("CPU 1 is listed twice"));
}

}  // namespace
}  // namespace everport
