#pragma once

#include <arpa/inet.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/time.h>

#include <string>
#include <string_view>

#include "backend/base/unique_fd.h"
#include "backend/config/config.h"
#include "backend/tls/files.h"

namespace everport::fakes {

// A client that does what it is told on a blocking socket, well behaved or not; nothing waits longer than 20 s.
class RawTlsClient {
 public:
  explicit RawTlsClient(const ListenConfig& server)
      : fd_(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)), context_(SSL_CTX_new(TLS_client_method())) {
    ::signal(SIGPIPE, SIG_IGN);  // OpenSSL writes as to a file
    const timeval limit{20, 0};
    ::setsockopt(fd_.get(), SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
    ::setsockopt(fd_.get(), SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit);
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_port = htons(server.port);
    ::inet_pton(AF_INET, server.ip.c_str(), &address.sin_addr);
    connected_ = ::connect(fd_.get(), reinterpret_cast<sockaddr*>(&address), sizeof address) == 0;
  }
  ~RawTlsClient() {
    SSL_free(ssl_);
    SSL_CTX_free(context_);
  }
  RawTlsClient(const RawTlsClient&) = delete;
  RawTlsClient& operator=(const RawTlsClient&) = delete;

  bool connected() const { return connected_; }
  SSL_CTX* context() { return context_; }
  // Without a certificate if files is null. The server's is not looked at.
  bool Handshake(const TlsFiles* files) {
    if (files) {
      SSL_CTX_use_certificate_chain_file(context_, files->certificate.c_str());
      SSL_CTX_use_PrivateKey_file(context_, files->key.c_str(), SSL_FILETYPE_PEM);
    }
    ssl_ = SSL_new(context_);
    SSL_set_fd(ssl_, fd_.get());
    return SSL_connect(ssl_) == 1;
  }
  // The server's certificate, by when it ends.
  int64_t ServerNotAfter() const {
    X509* certificate = SSL_get1_peer_certificate(ssl_);
    const int64_t ends = DescribeCertificate(certificate).not_after;
    X509_free(certificate);
    return ends;
  }
  bool Send(std::string_view text) { return SSL_write(ssl_, text.data(), static_cast<int>(text.size())) > 0; }
  // What has come when this is in it, or when nothing more comes.
  std::string ReadUntil(std::string_view text) {
    char buffer[16384];
    while (received_.find(text) == std::string::npos) {
      const int got = SSL_read(ssl_, buffer, sizeof buffer);
      if (got <= 0) break;
      received_.append(buffer, static_cast<size_t>(got));
    }
    return received_;
  }
  // Whether the server has ended the connection: no more than what has come comes.
  bool Ended() {
    char byte;
    return SSL_read(ssl_, &byte, 1) <= 0 && !TimedOut();
  }

  bool SendPlain(std::string_view text) {
    return ::send(fd_.get(), text.data(), text.size(), MSG_NOSIGNAL) == static_cast<ssize_t>(text.size());
  }
  // Until the server ends the connection.
  std::string ReadPlain() {
    char buffer[4096];
    std::string all;
    ssize_t got;
    while ((got = ::recv(fd_.get(), buffer, sizeof buffer, 0)) > 0) all.append(buffer, static_cast<size_t>(got));
    ended_well_ = got == 0;
    return all;
  }
  bool ended_well() const { return ended_well_; }  // no reset, no timeout
  int fd() const { return fd_.get(); }

 private:
  bool TimedOut() const { return errno == EAGAIN; }

  UniqueFd fd_;
  SSL_CTX* context_;
  SSL* ssl_ = nullptr;
  bool connected_ = false, ended_well_ = false;
  std::string received_;
};

}  // namespace everport::fakes
