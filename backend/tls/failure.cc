#include "backend/tls/failure.h"

#include <openssl/err.h>
#include <openssl/ssl.h>
#include <openssl/x509_vfy.h>

#include "absl/strings/str_cat.h"

namespace everport {
namespace {

// -1: it is no alert of the other side's. RFC 8446, 6.2.
int AlertOf(unsigned long ssl) {
  const int reason = ERR_GET_REASON(ssl);
  const bool alert =
      ERR_GET_LIB(ssl) == ERR_LIB_SSL && reason >= SSL_AD_REASON_OFFSET && reason < SSL_AD_REASON_OFFSET + 256;
  return alert ? reason - SSL_AD_REASON_OFFSET : -1;
}

std::string ReasonOf(unsigned long ssl) {
  const char* reason = ERR_reason_error_string(ssl);
  return reason ? reason : absl::StrCat("OpenSSL error ", ssl);
}

// What came was no TLS record.
bool IsNoTls(unsigned long ssl) {
  if (ERR_GET_LIB(ssl) != ERR_LIB_SSL) return false;
  switch (ERR_GET_REASON(ssl)) {
    case SSL_R_WRONG_VERSION_NUMBER:
    case SSL_R_PACKET_LENGTH_TOO_LONG:
    case SSL_R_BAD_RECORD_TYPE:
    case SSL_R_HTTP_REQUEST:
    case SSL_R_HTTPS_PROXY_REQUEST:
      return true;
    default:
      return false;
  }
}

bool IsPlainHttp(unsigned long ssl) {
  const int reason = ERR_GET_REASON(ssl);
  return IsNoTls(ssl) && (reason == SSL_R_HTTP_REQUEST || reason == SSL_R_HTTPS_PROXY_REQUEST);
}

// "certificate of 10.0.0.7 (CN=host-a)", or that of one of its CAs.
std::string Named(const std::string& whose, const TlsPeer& peer) {
  return absl::StrCat(peer.depth > 0 ? "CA's certificate behind that of " : "certificate of ", whose, " (",
                      peer.certificate.subject, ")");
}

// What its own dates or issuer say against it; shared by both sides.
std::string DescribeUnverified(const std::string& whose, const std::string& ca, const TlsPeer& peer) {
  const std::string named = Named(whose, peer);
  if (peer.verify_error == X509_V_ERR_CERT_HAS_EXPIRED)
    return absl::StrCat(named, " expired on ", DateText(peer.certificate.not_after), "; renew it");
  if (peer.verify_error == X509_V_ERR_CERT_NOT_YET_VALID) {
    return absl::StrCat(named, " is not valid before ", DateText(peer.certificate.not_before),
                        "; check both hosts' clocks, or wait");
  }
  if (peer.verify_error == X509_V_ERR_DEPTH_ZERO_SELF_SIGNED_CERT)
    return absl::StrCat(named, " is self-signed; issue one with the CA of ", ca);
  if (IsOfUnknownCa(peer.verify_error)) {
    return absl::StrCat(named, " is of a CA (", peer.certificate.issuer, ") that is not in ", ca,
                        "; add that CA there, or issue the certificate with the one that is");
  }
  return absl::StrCat(named, " cannot be used: ", X509_verify_cert_error_string(peer.verify_error), "; issue it anew");
}

TlsCause CauseOfUnverified(int verify_error) {
  if (verify_error == X509_V_ERR_CERT_HAS_EXPIRED) return TlsCause::kExpired;
  if (verify_error == X509_V_ERR_CERT_NOT_YET_VALID) return TlsCause::kNotYetValid;
  return IsOfUnknownCa(verify_error) ? TlsCause::kUnknownCa : TlsCause::kBadCertificate;
}

const char* WordsOfAlert(int alert) {
  switch (alert) {
    case SSL_AD_CERTIFICATE_EXPIRED:
      return "expired";
    case SSL_AD_UNKNOWN_CA:
      return "unknown CA";
    case SSL_AD_CERTIFICATE_UNKNOWN:
    case SSL_AD_BAD_CERTIFICATE:
      return "bad certificate";
    default:
      return SSL_alert_desc_string_long(alert);
  }
}

// The server says so of our certificate.
std::string DescribeRefusal(int alert, const TlsContext& own, int64_t now) {
  const CertificateInfo& mine = own.own();
  const std::string refused =
      absl::StrCat("the server refuses the certificate ", own.files().certificate, " (", mine.subject, "): ");
  switch (alert) {
    case SSL_AD_CERTIFICATE_EXPIRED:
      return absl::StrCat(refused, mine.not_after < now
                                       ? absl::StrCat("it expired on ", DateText(mine.not_after), "; renew it")
                                       : absl::StrCat("it, or its CA, has expired by the server's clock (valid until ",
                                                      DateText(mine.not_after), "); check both hosts' clocks"));
    case SSL_AD_UNKNOWN_CA:
      return absl::StrCat(refused, "its CA (", mine.issuer,
                          ") is not in the server's [daemon.listen] ca; use a certificate of that CA");
    case SSL_AD_DECRYPT_ERROR:
      return absl::StrCat(refused, "its CA (", mine.issuer,
                          ") is another than the one of that name in the server's [daemon.listen] ca; issue it anew");
    case SSL_AD_UNSUPPORTED_CERTIFICATE:
      return absl::StrCat(refused, "it is not one for clients; issue it with extendedKeyUsage = clientAuth");
    case SSL_AD_CERTIFICATE_REVOKED:
      return absl::StrCat(refused, "it is revoked; issue another");
    case SSL_AD_BAD_CERTIFICATE:
    case SSL_AD_CERTIFICATE_UNKNOWN:
      if (mine.not_before > now)
        return absl::StrCat(refused, "it is not valid before ", DateText(mine.not_before),
                            "; check both hosts' clocks, or wait");
      return absl::StrCat(refused, WordsOfAlert(alert), "; the log of everportd there says why");
    case SSL_AD_ACCESS_DENIED:
      return absl::StrCat(refused, "it is not allowed; see [daemon.listen] allow there");
    case SSL_AD_CERTIFICATE_REQUIRED:
      return "the server wants a client certificate; give --cert and --key";
    case SSL_AD_PROTOCOL_VERSION:
      return "the server has no TLS version in common (1.2 and 1.3 are spoken here); is it everportd's address?";
    default:
      return absl::StrCat("the server ended the TLS connection: ", SSL_alert_desc_string_long(alert),
                          "; the log of everportd there says why");
  }
}

}  // namespace

bool IsAlert(const TlsError& error) {
  return error.kind == TlsError::Kind::kSsl && AlertOf(error.ssl) >= 0;
}

const char* TlsCauseName(TlsCause cause) {
  switch (cause) {
    case TlsCause::kExpired:
      return "expired";
    case TlsCause::kNotYetValid:
      return "not_yet_valid";
    case TlsCause::kUnknownCa:
      return "unknown_ca";
    case TlsCause::kBadCertificate:
      return "bad_certificate";
    case TlsCause::kNoCertificate:
      return "no_certificate";
    case TlsCause::kNotAllowed:
      return "not_allowed";
    case TlsCause::kRefusedByPeer:
      return "refused_by_peer";
    case TlsCause::kPlainHttp:
      return "plain_http";
    case TlsCause::kNoTls:
      return "no_tls";
    case TlsCause::kProtocol:
      return "protocol";
    case TlsCause::kTimeout:
      return "timeout";
    case TlsCause::kClosed:
      return "closed";
    case TlsCause::kCrowded:
      return "crowded";
    case TlsCause::kTooMany:
      return "too_many";
  }
  return "?";
}

TlsRefusal DescribeClientFault(const std::string& address, const TlsError& error, const TlsPeer& peer) {
  if (error.kind == TlsError::Kind::kTimeout)
    return {TlsCause::kTimeout, absl::StrCat(address, ": no TLS handshake in time; is it a client of everportd?")};
  if (error.kind != TlsError::Kind::kSsl)
    return {
        TlsCause::kClosed,
        absl::StrCat(address,
                     ": went away during the TLS handshake; does it speak TLS, and accept this daemon's certificate?")};
  if (peer.verify_error != 0)
    return {CauseOfUnverified(peer.verify_error), DescribeUnverified(address, "[daemon.listen] ca", peer)};
  if (ERR_GET_REASON(error.ssl) == SSL_R_PEER_DID_NOT_RETURN_A_CERTIFICATE) {
    return {TlsCause::kNoCertificate,
            absl::StrCat(address, ": sends no certificate; give its client one of the CA in [daemon.listen] ca")};
  }
  if (IsPlainHttp(error.ssl))
    return {TlsCause::kPlainHttp, absl::StrCat(address, ": speaks HTTP without TLS; use https:// there")};
  if (IsNoTls(error.ssl))
    return {TlsCause::kNoTls, absl::StrCat(address, ": does not speak TLS; is it a client of everportd?")};
  if (const int alert = AlertOf(error.ssl); alert >= 0) {
    return {TlsCause::kRefusedByPeer,
            absl::StrCat(address, ": does not accept this daemon's certificate (", WordsOfAlert(alert),
                         "); its client needs the CA that issued it, and a URL with a name that it has")};
  }
  return {TlsCause::kProtocol,
          absl::StrCat(address, ": TLS handshake failed: ", ReasonOf(error.ssl), "; its client needs TLS 1.2 or 1.3")};
}

std::string DescribeServerFault(const std::string& host, const TlsError& error, const TlsPeer& peer,
                                const TlsContext& own, int64_t now) {
  switch (error.kind) {
    case TlsError::Kind::kTimeout:
      return "the server does not answer in the TLS handshake; is it everportd's address, and does everportd run well?";
    case TlsError::Kind::kClosed:
      return "the server closed the connection without a word; is it everportd's [daemon.listen] address? Its log says "
             "why";
    case TlsError::Kind::kSystem:
      return absl::StrCat(error.text, "; is it everportd's [daemon.listen] address?");
    case TlsError::Kind::kSsl:
      break;
  }
  const bool name =
      peer.verify_error == X509_V_ERR_HOSTNAME_MISMATCH || peer.verify_error == X509_V_ERR_IP_ADDRESS_MISMATCH;
  if (name) {
    return absl::StrCat("the server's certificate (", peer.certificate.subject, ") is not for ", host, " but for ",
                        peer.certificate.AltNames(), "; use a name that it has, or issue it with this one");
  }
  if (peer.verify_error == X509_V_ERR_INVALID_PURPOSE) {
    return absl::StrCat("the server's certificate (", peer.certificate.subject,
                        ") is not one for servers; issue it with extendedKeyUsage = serverAuth");
  }
  if (peer.verify_error != 0)
    return DescribeUnverified("the server", absl::StrCat(own.files().ca_label, " ", own.files().ca), peer);
  if (IsNoTls(error.ssl)) return "the server does not speak TLS; is it everportd's [daemon.listen] address?";
  if (const int alert = AlertOf(error.ssl); alert >= 0) return DescribeRefusal(alert, own, now);
  return absl::StrCat("TLS failed: ", ReasonOf(error.ssl), "; is it everportd's [daemon.listen] address?");
}

}  // namespace everport
