#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "backend/cli/http_client.h"

namespace everport::cli {

struct HttpsTarget {
  std::string url;   // https://hv2:9440, as messages name it
  std::string host;  // without brackets
  uint16_t port = 0;
};
// InvalidArgument: not https://HOST:PORT.
absl::StatusOr<HttpsTarget> ParseHttpsTarget(const std::string& text);

// FailedPrecondition: a file will not do.
absl::StatusOr<std::shared_ptr<const HttpTransport>> OpenTlsTransport(const HttpsTarget& target, const TlsFiles& files,
                                                                      std::chrono::milliseconds timeout);

}  // namespace everport::cli
