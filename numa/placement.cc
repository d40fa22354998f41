#include "numa/placement.h"

#include <tuple>

#include "absl/strings/str_cat.h"

namespace everport {
namespace {

std::string Note(int guest_node, int poller_node) {
  if (guest_node < 0) return "guest's node not known yet";
  if (poller_node == guest_node) return "local";
  if (poller_node < 0) return absl::StrCat("poller's node not known, guest on node ", guest_node);
  return absl::StrCat("no poller on node ", guest_node, "; nearest is ", poller_node);
}

}  // namespace

PollerChoice ChoosePoller(const std::vector<PollerLoad>& pollers, int guest_node) {
  const auto rank = [&](const PollerLoad& poller) {
    const bool remote = guest_node >= 0 && poller.node != guest_node;
    return std::tuple(remote, poller.ports, poller.index);
  };
  const PollerLoad* best = nullptr;
  for (const PollerLoad& poller : pollers) {
    if (!best || rank(poller) < rank(*best)) best = &poller;
  }
  if (!best) return {.poller = -1, .node = -1, .note = "there is no poller"};
  return {.poller = best->index, .node = best->node, .note = Note(guest_node, best->node)};
}

}  // namespace everport
