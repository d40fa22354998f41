#pragma once

namespace everport {

// Has what libbpf and libxdp print (on stderr, many a line for one af_xdp device that cannot be opened) logged at level
// debug, if DPDK has loaded them. Once, after EAL has started.
void RouteBpfLogs();

}  // namespace everport
