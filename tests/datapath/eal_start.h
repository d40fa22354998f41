#pragma once

namespace everport {

// Starts EAL for a test: ordinary memory, no devices, nothing shared with other processes, no CPU pinned.
// Ends the process if that fails. Once per process.
void StartEalForTest();

}  // namespace everport
