#pragma once

#include "backend/cli/client.h"

namespace everport::cli {

// everportctl: parses the arguments, runs the verb. Exit status: 0 done; 1 refused or failed; 2 wrong usage; both with
// one line on io.err (with --json: {"error": {"code": …, "message": …}}). default_api: $EVERPORT_API or
// /run/everport/api.sock.
int RunCli(int argc, const char* const argv[], const std::string& default_api, CliIo& io);

}  // namespace everport::cli
