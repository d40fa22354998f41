#pragma once

#include <spdlog/spdlog.h>

#include <string>

namespace everport {

// Sets up the process-wide spdlog logger. Call once, first thing in main.
// Under systemd (JOURNAL_STREAM names our stderr) lines carry the syslog level prefix "<N>" that journald
// reads and no time of their own; otherwise "time level message" on stderr.
// level: trace, debug, info, warning, error, critical. Returns false, and leaves info, if it is none of these.
bool InitLogging(const std::string& program, const std::string& level = "info");

// Habit: one line per state change, beginning with the port's name: spdlog::info("{}: path 0 (tap ep-vm1) running",
// name).

}  // namespace everport
