#pragma once

// The machine's NUMA nodes and their CPUs, and where pollers go. Any thread.
// Source: Linux Documentation/admin-guide/cputopology.rst and Documentation/ABI/stable/sysfs-devices-node.

#include <string>
#include <vector>

#include "absl/status/statusor.h"

namespace everport {

struct NumaNode {
  int id = 0;
  std::vector<unsigned> cpus;  // online ones, ascending; empty for a node with memory alone
  bool operator==(const NumaNode&) const = default;
};

struct Topology {
  std::vector<NumaNode> nodes;  // by id; at least one

  int NodeOfCpu(unsigned cpu) const;  // -1: that CPU is not online
  bool operator==(const Topology&) const = default;
};

// Reads <root>/sys/devices/system/node/node*/cpulist and …/cpu/online; root "" is this machine. A kernel without NUMA
// has no node folder: then all online CPUs are node 0. NotFound or InvalidArgument names the file.
absl::StatusOr<Topology> ReadTopology(const std::string& root = "");

// The CPUs this process may run on: sched_getaffinity(2), that is cgroup cpuset and taskset taken into account.
std::vector<unsigned> AllowedCpus();

// One poller: the CPUs its thread may run on, and their node.
struct PollerCpus {
  std::vector<unsigned> cpus;  // ascending; one: pinned, more: floating over them
  int node = -1;
  bool operator==(const PollerCpus&) const = default;
};

// "auto": one poller for each node that has allowed online CPUs, in the order of nodes, floating over that node's
// allowed CPUs: the scheduler keeps it off busy ones, and memory stays local. FailedPrecondition if there is no such
// CPU.
absl::StatusOr<std::vector<PollerCpus>> AutoPollers(const Topology& topology, const std::vector<unsigned>& allowed);
// An explicit list: one poller pinned to each CPU, in the list's order. InvalidArgument names the CPU that is offline,
// not allowed or listed twice.
absl::StatusOr<std::vector<PollerCpus>> PinnedPollers(const Topology& topology, const std::vector<unsigned>& allowed,
                                                      const std::vector<unsigned>& wanted);

}  // namespace everport
