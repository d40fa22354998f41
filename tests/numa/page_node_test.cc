#include "numa/page_node.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstring>

#include "numa/topology.h"

namespace everport {
namespace {

using ::testing::ElementsAre;

class Mapping {
 public:
  explicit Mapping(size_t size) : size_(size) {
    at_ = static_cast<char*>(::mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
  }
  ~Mapping() { ::munmap(at_, size_); }
  Mapping(const Mapping&) = delete;
  char* at(size_t offset = 0) const { return at_ + offset; }

 private:
  size_t size_;
  char* at_;
};

const size_t kPage = static_cast<size_t>(::sysconf(_SC_PAGESIZE));

bool IsANode(int id) {
  const auto topology = ReadTopology();
  for (const NumaNode& node : topology->nodes) {
    if (node.id == id) return true;
  }
  return false;
}

TEST(PageNode, TouchedPageIsOnANodeOfThisMachine) {
  const Mapping memory(kPage);
  memory.at()[0] = 1;
  EXPECT_TRUE(IsANode(PageNode(memory.at())));
  EXPECT_TRUE(IsANode(PageNode(memory.at(kPage - 1)))) << "an address within the page";
}

TEST(PageNode, UntouchedOrUnmappedIsUnknown) {
  const Mapping memory(kPage);
  EXPECT_EQ(PageNode(memory.at()), -1);
  EXPECT_EQ(PageNode(nullptr), -1);
}

TEST(PageNodes, OneUnknownPageDoesNotHideTheOthersAcrossBatches) {
  constexpr size_t kCount = 1300;
  const Mapping memory(kCount * kPage);
  std::vector<const void*> addresses;
  for (size_t i = 0; i < kCount; ++i) {
    addresses.push_back(memory.at(i * kPage));
    if (i != 700) memory.at(i * kPage)[0] = 1;
  }
  const std::vector<int> nodes = PageNodes(addresses);
  ASSERT_EQ(nodes.size(), kCount);
  for (size_t i = 0; i < kCount; ++i) EXPECT_EQ(nodes[i] == -1, i == 700) << i;
  EXPECT_TRUE(PageNodes({}).empty());
}

TEST(MajorityNode, CountsKnownNodesAlone) {
  EXPECT_EQ(MajorityNode({1, 0, 1}), 1);
  EXPECT_EQ(MajorityNode({-1, -1, -1, 2}), 2);
  EXPECT_EQ(MajorityNode({1, 0}), 0) << "the lower of equals";
  EXPECT_EQ(MajorityNode({-1}), -1);
  EXPECT_EQ(MajorityNode({}), -1);
}

}  // namespace
}  // namespace everport
