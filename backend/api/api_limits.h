#pragma once

#include <chrono>
#include <cstddef>

namespace everport {

// What one client may take. The defaults are the daemon's; tests choose smaller ones. The Unix socket and the TCP
// listener count for themselves: nobody on the network can keep the host's own everportctl out.
struct ApiLimits {
  size_t connections = 64;                    // further ones are answered 503
  size_t header_bytes = 8 * 1024;             // 431 beyond
  size_t body_bytes = 1024 * 1024;            // 413 beyond
  std::chrono::milliseconds request{10'000};  // from a request's first byte to its last; one write of a reply likewise
  std::chrono::milliseconds idle{60'000};     // between requests
  size_t event_queue_bytes = 1024 * 1024;     // a reader of /v1/events that falls further behind is dropped

  // Of the TCP listener.
  size_t handshakes = 128;                      // going on at a time; for a further one the oldest is dropped
  std::chrono::milliseconds handshake{10'000};  // from the connection to its end
  std::chrono::milliseconds retry{5'000};       // until an address or files that would not do are tried again
};

}  // namespace everport
