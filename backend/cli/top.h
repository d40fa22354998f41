#pragma once

#include <boost/json/value.hpp>
#include <string>

#include "absl/status/status.h"
#include "backend/cli/client.h"

namespace everport::cli {

struct TopOptions {
  unsigned count = 0;     // tables to show; 0: until q or Ctrl-C, or one where stdout is no terminal
  double interval_s = 1;  // seconds between samples, at least 0.01
};

// Rates of all ports, anew each interval: on a terminal on a screen of its own, otherwise as plain tables (with --json
// as one object a line).
absl::Status RunTop(const Client& client, const TopOptions& options);

// Two samples of /v1/ports, seconds apart, as one list: each port with its rates per second in rx_pps, rx_bps (bits),
// tx_pps, tx_bps, drops_ps. A port that was not there before, or whose counters began anew, has the rates 0.
boost::json::value Rates(const boost::json::value& before, const boost::json::value& after, double seconds);
// The table of such a list, with a line of totals above it.
std::string RatesText(const boost::json::value& rates);

}  // namespace everport::cli
