#pragma once

// Which NUMA node holds a page of this process: the kernel is asked, move_pages(2) with nodes = NULL. A guest's memory
// lies where QEMU's memory backend put it, which only its pages tell. Any thread; a system call per 512 addresses.

#include <vector>

#include "absl/types/span.h"

namespace everport {

// The node of the page at each address, in order; -1 where nothing is mapped, the page was never touched, or the kernel
// does not say (no NUMA, or a sandbox that forbids the call).
std::vector<int> PageNodes(absl::Span<const void* const> addresses);
int PageNode(const void* address);

// The node that holds most of the pages; the lower one of equals; -1 if no node is known. Pure.
int MajorityNode(absl::Span<const int> nodes);

}  // namespace everport
