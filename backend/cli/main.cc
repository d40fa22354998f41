#include <unistd.h>

#include <csignal>
#include <cstdlib>
#include <iostream>

#include "backend/cli/app.h"

int main(int argc, char** argv) {
  std::signal(SIGPIPE, SIG_IGN);  // a daemon that closes early gives an error, not an end without words
  const char* api = std::getenv("EVERPORT_API");
  everport::cli::CliIo io{std::cin, std::cout, std::cerr, ::isatty(STDOUT_FILENO) == 1, ::isatty(STDERR_FILENO) == 1};
  return everport::cli::RunCli(argc, argv, api && *api ? api : "/run/everport/api.sock", io);
}
