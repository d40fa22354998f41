#pragma once

// Why a connection did not come about or broke off, in an operator's words. Pure; any thread.

#include <cstdint>
#include <string>

#include "backend/tls/context.h"

namespace everport {

// How it ended, as the socket and OpenSSL tell it.
struct TlsError {
  enum class Kind {
    kSsl,     // OpenSSL found a fault, or the other side sent an alert: `ssl`
    kClosed,  // the other side closed or reset the connection
    kTimeout,
    kSystem,  // `text`
  } kind = Kind::kSsl;
  unsigned long ssl = 0;  // a code of OpenSSL's error queue
  std::string text = {};
};

// Whether the other side said so, in an alert.
bool IsAlert(const TlsError& error);

// Why the server did not serve a connection; the label of its metric.
enum class TlsCause {
  kExpired,         // the client's certificate, or one of its CAs'
  kNotYetValid,     // likewise
  kUnknownCa,       // it is of another CA, or of none
  kBadCertificate,  // it cannot be used for something else
  kNoCertificate,   // the client has none
  kNotAllowed,      // its name is not in `allow`
  kRefusedByPeer,   // the client does not accept the server's certificate
  kPlainHttp,       // HTTP without TLS
  kNoTls,           // something else without TLS
  kProtocol,        // no version or cipher in common, or TLS that is broken
  kTimeout,         // of the handshake
  kClosed,          // by the client, in the handshake
  kCrowded,         // more handshakes at a time than there may be; the oldest goes
  kTooMany,         // as many connections as there may be are open
};
inline constexpr TlsCause kTlsCauses[] = {
    TlsCause::kExpired,       TlsCause::kNotYetValid, TlsCause::kUnknownCa,     TlsCause::kBadCertificate,
    TlsCause::kNoCertificate, TlsCause::kNotAllowed,  TlsCause::kRefusedByPeer, TlsCause::kPlainHttp,
    TlsCause::kNoTls,         TlsCause::kProtocol,    TlsCause::kTimeout,       TlsCause::kClosed,
    TlsCause::kCrowded,       TlsCause::kTooMany,
};
const char* TlsCauseName(TlsCause cause);  // "unknown_ca"

struct TlsRefusal {
  TlsCause cause;
  std::string text;  // "certificate of 10.0.0.7 (CN=host-a) expired on …; renew it"
};
// The server's view of a handshake that failed. address: the client's.
TlsRefusal DescribeClientFault(const std::string& address, const TlsError& error, const TlsPeer& peer);

// The client's view, of a handshake or of what came after: a server under TLS 1.3 refuses a client's certificate only
// then. host: as the URL names it. now: seconds since 1970. "cause; mend".
std::string DescribeServerFault(const std::string& host, const TlsError& error, const TlsPeer& peer,
                                const TlsContext& own, int64_t now);

}  // namespace everport
