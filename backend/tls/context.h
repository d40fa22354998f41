#pragma once

// OpenSSL contexts for both sides: TLS 1.2 or 1.3, the other side's certificate always asked for and verified, no
// renegotiation, no session resumption (each connection is checked by the files of its day). A context is not changed
// once it is made; connections keep theirs alive.

#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "backend/tls/certificate.h"
#include "backend/tls/files.h"

struct ssl_ctx_st;  // OpenSSL's SSL_CTX
struct ssl_st;      // and its SSL

namespace everport {

class TlsContext {
 public:
  // FailedPrecondition: the first of the files' faults. now: seconds since 1970; of a client's own certificate the
  // dates are not looked at, as it is the server's clock that counts.
  static absl::StatusOr<std::shared_ptr<const TlsContext>> Load(const TlsFiles& files, TlsSide side, int64_t now);
  ~TlsContext();
  TlsContext(const TlsContext&) = delete;
  TlsContext& operator=(const TlsContext&) = delete;

  ssl_ctx_st* native() const { return context_; }
  const TlsFiles& files() const { return files_; }
  const CertificateInfo& own() const { return own_; }

 private:
  TlsContext(ssl_ctx_st* context, TlsFiles files, CertificateInfo own)
      : context_(context), files_(std::move(files)), own_(std::move(own)) {}
  ssl_ctx_st* const context_;
  const TlsFiles files_;
  const CertificateInfo own_;
};

// The other side's certificate, as far as the handshake has come.
struct TlsPeer {
  int verify_error = 0;         // X509_V_ERR_…; 0: none so far
  int depth = 0;                // of the certificate at fault: 0 the other side's own, above it those of its CAs
  CertificateInfo certificate;  // at fault, or else the other side's own; empty subject: none came
};

// That verification ended where no CA of ours is.
bool IsOfUnknownCa(int verify_error);

// Notes in *peer what the connection's verification finds; peer outlives it. Before the handshake.
void WatchPeer(ssl_st* connection, TlsPeer* peer);
// The server's certificate must have this name (or IP address), and the server is told it (SNI).
absl::Status ExpectServerName(ssl_st* connection, const std::string& host);

}  // namespace everport
