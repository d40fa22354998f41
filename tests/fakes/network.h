#pragma once

#include <string>

namespace everport::fakes {

// Moves the calling thread, and what it starts from now on, into a network namespace of its own with its own /sys and
// loopback up. Once per test program. Needs root.
void EnterOwnNetwork();

// A shell command that must succeed; ends the test program if it does not.
void Shell(const std::string& command);

// Administratively up or down, at once.
void SetLinkUp(const std::string& interface, bool up);

}  // namespace everport::fakes
