#include "backend/tls/context.h"

#include <arpa/inet.h>
#include <openssl/err.h>
#include <openssl/x509_vfy.h>

#include "absl/strings/str_cat.h"
#include "backend/tls/handles.h"

namespace everport {
namespace {

// Of TLS 1.2; forward secret and authenticated. Those of 1.3 all are.
constexpr const char* kCiphers = "ECDHE+AESGCM:ECDHE+CHACHA20";

int PeerIndex() {
  static const int index = SSL_get_ex_new_index(0, nullptr, nullptr, nullptr, nullptr);
  return index;
}

// Changes nothing of what OpenSSL found; writes it down, as its error code alone does not name the certificate.
int NoteVerified(int ok, X509_STORE_CTX* store) {
  auto* ssl = static_cast<SSL*>(X509_STORE_CTX_get_ex_data(store, SSL_get_ex_data_X509_STORE_CTX_idx()));
  auto* peer = static_cast<TlsPeer*>(SSL_get_ex_data(ssl, PeerIndex()));
  if (!peer || peer->verify_error != 0) return ok;
  peer->verify_error = ok ? 0 : X509_STORE_CTX_get_error(store);
  peer->depth = X509_STORE_CTX_get_error_depth(store);
  // It goes from the root to the other side's own: the last one stays.
  const X509* const certificate = X509_STORE_CTX_get_current_cert(store);
  if (!certificate) return ok;
  peer->certificate = DescribeCertificate(certificate);
  if (peer->depth > 0 && IsOfUnknownCa(peer->verify_error)) {  // what is not known above it is its own fault
    const std::string issuer = peer->certificate.issuer;
    peer->certificate = DescribeCertificate(X509_STORE_CTX_get0_cert(store));
    peer->certificate.issuer = issuer;
    peer->depth = 0;
  }
  return ok;
}

absl::Status Refused(const std::string& label, const std::string& path) {
  const char* reason = ERR_reason_error_string(ERR_peek_last_error());
  ERR_clear_error();
  return absl::FailedPreconditionError(
      absl::StrCat(label, ": ", path, ": cannot be used (", reason ? reason : "unknown reason", "); make it anew"));
}

void SetPolicy(SSL_CTX* context) {
  SSL_CTX_set_min_proto_version(context, TLS1_2_VERSION);
  SSL_CTX_set_cipher_list(context, kCiphers);
  SSL_CTX_set_options(
      context, SSL_OP_NO_RENEGOTIATION | SSL_OP_NO_TICKET | SSL_OP_NO_COMPRESSION | SSL_OP_CIPHER_SERVER_PREFERENCE);
  SSL_CTX_set_num_tickets(context, 0);
  SSL_CTX_set_session_cache_mode(context, SSL_SESS_CACHE_OFF);
  // An idle connection's buffers are given back; writes may be taken up with another address, as Asio does.
  SSL_CTX_set_mode(context,
                   SSL_MODE_RELEASE_BUFFERS | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER | SSL_MODE_ENABLE_PARTIAL_WRITE);
  SSL_CTX_set_verify(context, SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT, NoteVerified);
}

absl::Status UseFiles(SSL_CTX* context, const TlsFiles& files, TlsSide side) {
  if (SSL_CTX_use_certificate_chain_file(context, files.certificate.c_str()) != 1)
    return Refused(files.certificate_label, files.certificate);
  if (SSL_CTX_use_PrivateKey_file(context, files.key.c_str(), SSL_FILETYPE_PEM) != 1 ||
      SSL_CTX_check_private_key(context) != 1)
    return Refused(files.key_label, files.key);
  if (SSL_CTX_load_verify_file(context, files.ca.c_str()) != 1) return Refused(files.ca_label, files.ca);
  if (side == TlsSide::kClient) return absl::OkStatus();
  STACK_OF(X509_NAME)* names = SSL_load_client_CA_file(files.ca.c_str());
  if (!names) return Refused(files.ca_label, files.ca);
  SSL_CTX_set_client_CA_list(context, names);  // takes it
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::shared_ptr<const TlsContext>> TlsContext::Load(const TlsFiles& files, TlsSide side, int64_t now) {
  TlsInspection found = InspectTlsFiles(files, side, now);
  if (side == TlsSide::kClient && found.certificate) {
    CertificateInfo& own = *found.certificate;
    if (own.not_after < now || own.not_before > now)
      found = InspectTlsFiles(files, side, own.not_after);  // all but its dates
  }
  if (!found.faults.empty()) return absl::FailedPreconditionError(found.faults.front());
  ERR_clear_error();
  ContextHandle context(SSL_CTX_new(side == TlsSide::kServer ? TLS_server_method() : TLS_client_method()));
  if (!context) return absl::InternalError("TLS: OpenSSL gives no context; is its configuration (openssl.cnf) broken?");
  SetPolicy(context.get());
  if (absl::Status status = UseFiles(context.get(), files, side); !status.ok()) return status;
  return std::shared_ptr<const TlsContext>(new TlsContext(context.release(), files, *found.certificate));
}

TlsContext::~TlsContext() {
  SSL_CTX_free(context_);
}

bool IsOfUnknownCa(int verify_error) {
  switch (verify_error) {
    case X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT:
    case X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT_LOCALLY:
    case X509_V_ERR_UNABLE_TO_VERIFY_LEAF_SIGNATURE:
    case X509_V_ERR_DEPTH_ZERO_SELF_SIGNED_CERT:
    case X509_V_ERR_SELF_SIGNED_CERT_IN_CHAIN:
    case X509_V_ERR_CERT_SIGNATURE_FAILURE:  // a CA of the same name
      return true;
    default:
      return false;
  }
}

void WatchPeer(ssl_st* connection, TlsPeer* peer) {
  SSL_set_ex_data(connection, PeerIndex(), peer);
}

absl::Status ExpectServerName(ssl_st* connection, const std::string& host) {
  unsigned char bytes[sizeof(in6_addr)];
  const bool ip = ::inet_pton(AF_INET, host.c_str(), bytes) == 1 || ::inet_pton(AF_INET6, host.c_str(), bytes) == 1;
  X509_VERIFY_PARAM* param = SSL_get0_param(connection);
  X509_VERIFY_PARAM_set_hostflags(param, X509_CHECK_FLAG_NEVER_CHECK_SUBJECT | X509_CHECK_FLAG_NO_PARTIAL_WILDCARDS);
  const bool set = ip ? X509_VERIFY_PARAM_set1_ip_asc(param, host.c_str()) == 1
                      : X509_VERIFY_PARAM_set1_host(param, host.c_str(), host.size()) == 1 &&
                            SSL_set_tlsext_host_name(connection, host.c_str()) == 1;
  if (set) return absl::OkStatus();
  ERR_clear_error();
  return absl::InvalidArgumentError(absl::StrCat("\"", host, "\" is no host's name; give a DNS name or an IP address"));
}

}  // namespace everport
