#pragma once

#include "backend/cli/client.h"

namespace everport::cli {

// everportctl: parses the arguments, runs the verb. Exit status: 0 done; 1 refused or failed, with one line on io.err;
// 2 usage. default_api: $EVERPORT_API or /run/everport/api.sock.
int RunCli(int argc, const char* const argv[], const std::string& default_api, CliIo& io);

}  // namespace everport::cli
