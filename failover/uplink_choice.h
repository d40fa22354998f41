#pragma once

// Which of a port's uplinks should serve it now. Pure; any thread.

#include <vector>

#include "failover/health_monitor.h"

namespace everport {

// uplinks: in order of preference. active: the one in use, -1 if none. chosen: by hand (`everportctl path`), it is
// preferred to all others; -1 if none is. Returns an index, or -1 when no uplink is usable.
//
// A usable active uplink is given up only for a preferred one that is trusted. Without one the first trusted uplink is
// taken, and the first that is still proving itself only if no other works.
int ChooseUplink(const std::vector<HealthMonitor::State>& uplinks, int active, int chosen);

}  // namespace everport
