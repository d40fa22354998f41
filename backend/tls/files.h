#pragma once

// The three PEM files of one side of a connection, and what can be wrong with them. Any thread; blocks on files.

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "backend/tls/certificate.h"

namespace everport {

enum class TlsSide { kServer, kClient };

struct TlsFiles {
  std::string certificate;  // with what intermediate certificates there are
  std::string key;
  std::string ca;  // whose certificates the other side has
  // What messages call them.
  std::string certificate_label = "certificate", key_label = "key", ca_label = "ca";
};

struct TlsInspection {
  std::optional<CertificateInfo> certificate;
  std::vector<std::string> faults;    // it cannot be used; "label: path: cause; mend"
  std::vector<std::string> warnings;  // it can
};

// now: seconds since 1970; faults are those of the dates as well.
TlsInspection InspectTlsFiles(const TlsFiles& files, TlsSide side, int64_t now);

}  // namespace everport
