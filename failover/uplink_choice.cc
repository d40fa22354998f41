#include "failover/uplink_choice.h"

namespace everport {
namespace {

using State = HealthMonitor::State;

// Indices by preference: the chosen one, then the order of the configuration.
std::vector<int> ByPreference(int count, int chosen) {
  std::vector<int> order;
  if (chosen >= 0 && chosen < count) order.push_back(chosen);
  for (int i = 0; i < count; ++i) {
    if (i != chosen) order.push_back(i);
  }
  return order;
}

}  // namespace

int ChooseUplink(const std::vector<State>& uplinks, int active, int chosen) {
  int proving = -1;
  for (int i : ByPreference(static_cast<int>(uplinks.size()), chosen)) {
    const State state = uplinks[static_cast<size_t>(i)];
    if (state == State::kTrusted || (state == State::kProving && i == active)) return i;
    if (state == State::kProving && proving < 0) proving = i;
  }
  return proving;
}

}  // namespace everport
