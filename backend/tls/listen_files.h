#pragma once

#include "backend/config/config.h"
#include "backend/tls/files.h"

namespace everport {

// The files of the API over TCP, as messages name them: "daemon.listen.key: /etc/…: …".
inline TlsFiles ListenFiles(const ListenConfig& config) {
  return {.certificate = config.certificate,
          .key = config.key,
          .ca = config.ca,
          .certificate_label = "daemon.listen.certificate",
          .key_label = "daemon.listen.key",
          .ca_label = "daemon.listen.ca"};
}

}  // namespace everport
