#include "numa/page_node.h"

#include <numaif.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <map>

namespace everport {
namespace {

constexpr size_t kBatch = 512;

void QueryBatch(absl::Span<const void* const> addresses, int* nodes) {
  const auto page_mask = ~(static_cast<uintptr_t>(::sysconf(_SC_PAGESIZE)) - 1);
  void* pages[kBatch];
  for (size_t i = 0; i < addresses.size(); ++i) {
    pages[i] = reinterpret_cast<void*>(reinterpret_cast<uintptr_t>(addresses[i]) & page_mask);
  }
  // A status is a node, or -errno of that page alone; if the call itself fails nothing is known.
  const bool asked = ::move_pages(0, addresses.size(), pages, nullptr, nodes, 0) >= 0;
  for (size_t i = 0; i < addresses.size(); ++i) nodes[i] = asked ? std::max(nodes[i], -1) : -1;
}

}  // namespace

std::vector<int> PageNodes(absl::Span<const void* const> addresses) {
  std::vector<int> nodes(addresses.size(), -1);
  for (size_t begin = 0; begin < addresses.size(); begin += kBatch) {
    QueryBatch(addresses.subspan(begin, kBatch), nodes.data() + begin);
  }
  return nodes;
}

int PageNode(const void* address) {
  return PageNodes({&address, 1}).front();
}

int MajorityNode(absl::Span<const int> nodes) {
  std::map<int, size_t> count;  // ordered: of equals the lowest node comes first
  for (const int node : nodes) {
    if (node >= 0) ++count[node];
  }
  int majority = -1;
  size_t most = 0;
  for (const auto& [node, pages] : count) {
    if (pages > most) {
      majority = node;
      most = pages;
    }
  }
  return majority;
}

}  // namespace everport
