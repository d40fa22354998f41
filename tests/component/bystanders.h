#pragma once

#include <functional>
#include <string>
#include <vector>

#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "tests/component/stack.h"
#include "tests/fakes/traffic.h"

namespace everport::component {

// Descriptors and mappings of guests' memory that keeper and daemon hold.
struct Footprint {
  std::vector<std::string> keeper_fds, daemon_fds;
  size_t keeper_maps = 0, daemon_maps = 0;
  bool operator==(const Footprint&) const = default;
};

// Two well-behaved guests on a wire of their own beside the port under attack, at a pace that fills no ring: whatever
// happens over there, every frame of theirs must arrive.
class Bystanders {
 public:
  Bystanders(Stack& stack, const std::string& a, const std::string& b);

  bool ready() const { return ready_; }
  // Traffic runs until done().
  bool RunUntil(const std::function<bool()>& done, absl::Duration timeout);
  // The same, for a condition that costs something to look at: every 20 ms.
  bool Eventually(const std::function<bool()>& done, absl::Duration timeout = absl::Seconds(10));
  // Empty if each frame sent so far has arrived, intact and once, and traffic still moves; else what is wrong.
  std::string Loss();
  // The footprint once it has stopped changing (a session that just ended is being taken down).
  Footprint Settle();
  // Empty if the footprint comes back to `before`; else what there is more.
  std::string Growth(const Footprint& before);

 private:
  Footprint Now() const;

  Stack& stack_;
  fakes::FrontEnd left_, right_;
  fakes::Flow there_, back_;
  bool ready_ = false;
};

}  // namespace everport::component
