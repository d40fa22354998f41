#include "backend/cli/tls_transport.h"

#include <algorithm>
#include <boost/asio/ip/address.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/ssl/context.hpp>
#include <boost/asio/ssl/error.hpp>
#include <boost/asio/ssl/stream.hpp>
#include <boost/beast/core/basic_stream.hpp>
#include <ctime>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "backend/cli/http_exchange.h"
#include "backend/tls/any_stream_of.h"
#include "backend/tls/context.h"
#include "backend/tls/failure.h"

namespace everport::cli {
namespace {

namespace asio = boost::asio;
namespace beast = boost::beast;
using boost::system::error_code;
using std::chrono::milliseconds;
using Tcp = asio::ip::tcp;
using Executor = asio::io_context::executor_type;
using Stream = asio::ssl::stream<beast::basic_stream<Tcp, Executor>>;

// For the connection, and again for the handshake, which wait for nothing of the daemon's.
constexpr milliseconds kConnectTimeout{10'000};

double Seconds(milliseconds time) {
  return static_cast<double>(time.count()) / 1000;
}

asio::ssl::context Shared(const TlsContext& context) {
  SSL_CTX_up_ref(context.native());
  return asio::ssl::context(context.native());  // owns one reference
}

class TlsConnection : public HttpConnection {
 public:
  TlsConnection(const HttpsTarget& target, const TlsContext& context, milliseconds timeout)
      : target_(target),
        context_(context),
        timeout_(timeout),
        connect_timeout_(std::min(timeout, kConnectTimeout)),
        asio_context_(Shared(context)),
        stream_(io_, asio_context_) {
    WatchPeer(stream_.stream().native_handle(), &peer_);
  }

  asio::io_context& io() override { return io_; }
  AnyStream& stream() override { return stream_; }
  std::string host() const override { return std::string(absl::StripPrefix(target_.url, "https://")); }

  absl::Status Connect() override {
    if (absl::Status status = ExpectServerName(stream_.stream().native_handle(), target_.host); !status.ok())
      return status;
    const auto endpoints = Resolve();
    if (!endpoints.ok()) return endpoints.status();
    auto& socket = stream_.Socket();
    socket.expires_after(connect_timeout_);
    error_code error = Await([&](auto done) { socket.async_connect(*endpoints, done); });
    if (error) return ConnectError(error);
    error_code ignored;
    socket.socket().set_option(Tcp::no_delay(true), ignored);
    socket.expires_after(connect_timeout_);
    error = Await([&](auto done) { stream_.stream().async_handshake(Stream::client, done); });
    return error ? TlsFault(error) : absl::OkStatus();
  }

  // What a server has against our certificate comes here under TLS 1.3: for the client the handshake ends first.
  absl::Status Broken(const error_code& error, bool answered) const override {
    if (error == beast::error::timeout) {
      return absl::DeadlineExceededError(
          absl::StrCat(target_.url, ": no answer within ", Seconds(timeout_), " s; see the log of everportd there"));
    }
    if (!answered && error.category() != beast::http::make_error_code(beast::http::error::bad_method).category())
      return TlsFault(error);
    if (!answered && error == beast::http::error::end_of_stream) return TlsFault(asio::error::eof);
    return absl::UnavailableError(
        absl::StrCat(target_.url, ": the answer broke off: ", error.message(), "; see the log of everportd there"));
  }

 private:
  template <typename Start>
  error_code Await(const Start& start) {
    error_code result;
    start([&](error_code error, auto&&...) { result = error; });
    io_.restart();
    io_.run();
    return result;
  }

  absl::StatusOr<std::vector<Tcp::endpoint>> Resolve() {
    error_code error;
    const auto address = asio::ip::make_address(target_.host, error);
    if (!error) return std::vector{Tcp::endpoint(address, target_.port)};
    asio::ip::basic_resolver<Tcp, Executor> resolver(io_);
    std::vector<Tcp::endpoint> endpoints;
    resolver.async_resolve(target_.host, absl::StrCat(target_.port), [&](error_code result, const auto& found) {
      error = result;
      for (const auto& entry : found) endpoints.push_back(entry.endpoint());
    });
    io_.restart();
    io_.run();
    if (!error) return endpoints;
    return absl::UnavailableError(absl::StrCat(target_.url, ": the name ", target_.host, " does not resolve (",
                                               error.message(), "); correct it, or give the address"));
  }

  absl::Status ConnectError(const error_code& error) const {
    if (error == beast::error::timeout) {
      return absl::DeadlineExceededError(
          absl::StrCat(target_.url, ": cannot connect within ", Seconds(connect_timeout_),
                       " s; does the host run, and does a firewall let port ", target_.port, " through?"));
    }
    return absl::UnavailableError(absl::StrCat(target_.url, ": cannot connect: ", error.message(),
                                               "; does everportd run there, with [daemon.listen]?"));
  }

  absl::Status TlsFault(const error_code& error) const {
    TlsError fault{.kind = TlsError::Kind::kSystem, .text = error.message()};
    if (error == beast::error::timeout) fault.kind = TlsError::Kind::kTimeout;
    if (error.category() == asio::error::get_ssl_category()) {
      fault.kind = TlsError::Kind::kSsl;
      fault.ssl = static_cast<unsigned>(error.value());
    }
    if (error == asio::error::eof || error == asio::ssl::error::stream_truncated ||
        error == asio::error::connection_reset || error == asio::error::broken_pipe)
      fault.kind = TlsError::Kind::kClosed;
    const std::string text =
        absl::StrCat(target_.url, ": ", DescribeServerFault(target_.host, fault, peer_, context_, std::time(nullptr)));
    if (fault.kind == TlsError::Kind::kTimeout) return absl::DeadlineExceededError(text);
    if (peer_.verify_error != 0) return absl::FailedPreconditionError(text);
    return IsAlert(fault) ? absl::PermissionDeniedError(text) : absl::UnavailableError(text);
  }

  const HttpsTarget& target_;
  const TlsContext& context_;
  const milliseconds timeout_, connect_timeout_;
  asio::io_context io_;
  asio::ssl::context asio_context_;
  TlsPeer peer_;
  AnyStreamOf<Stream> stream_;
};

class TlsTransport : public HttpTransport {
 public:
  TlsTransport(HttpsTarget target, std::shared_ptr<const TlsContext> context, milliseconds timeout)
      : target_(std::move(target)), context_(std::move(context)), timeout_(timeout) {}

  absl::StatusOr<HttpReply> Do(const Request& request, const Waiting& waiting) const override {
    TlsConnection connection(target_, *context_, timeout_);
    return HttpExchange(connection, timeout_).Do(request, waiting);
  }
  absl::Status Lines(const Request& request, const std::function<bool(std::string_view)>& line,
                     const std::function<absl::Status(const HttpReply&)>& refused) const override {
    TlsConnection connection(target_, *context_, timeout_);
    return HttpExchange(connection, timeout_).Lines(request, line, refused);
  }

 private:
  const HttpsTarget target_;
  const std::shared_ptr<const TlsContext> context_;
  const milliseconds timeout_;
};

}  // namespace

absl::StatusOr<HttpsTarget> ParseHttpsTarget(const std::string& text) {
  const auto fault = [&](const char* why) {
    return absl::InvalidArgumentError(
        absl::StrCat(text, ": ", why, "; write https://HOST:PORT, with the port of [daemon.listen] address there"));
  };
  HttpsTarget target;
  absl::string_view rest = absl::StripPrefix(text, "https://");
  rest = absl::StripSuffix(rest, "/");
  for (const char c : rest) {
    if (c <= ' ' || c == '/' || c == '?' || c == '#' || c == '@' || c == 0x7f)
      return fault("has more than a host and a port");
  }
  const size_t colon = rest.rfind(':');
  if (colon == rest.npos || absl::EndsWith(rest, "]")) return fault("has no port");
  absl::string_view host = rest.substr(0, colon);
  const bool bracketed = absl::ConsumePrefix(&host, "[") && absl::ConsumeSuffix(&host, "]");
  if (!bracketed && absl::StrContains(host, ':'))
    return fault("an IPv6 address needs brackets: https://[ADDRESS]:PORT");
  uint32_t port = 0;
  if (!absl::SimpleAtoi(rest.substr(colon + 1), &port) || port == 0 || port > UINT16_MAX)
    return fault("has no port of 1 to 65535");
  error_code error;
  if (bracketed) asio::ip::make_address_v6(std::string(host), error);
  if (host.empty() || error) return fault("has no host");
  target.url = absl::StrCat("https://", rest);
  target.host = std::string(host);
  target.port = static_cast<uint16_t>(port);
  return target;
}

absl::StatusOr<std::shared_ptr<const HttpTransport>> OpenTlsTransport(const HttpsTarget& target, const TlsFiles& files,
                                                                      milliseconds timeout) {
  auto context = TlsContext::Load(files, TlsSide::kClient, std::time(nullptr));
  if (!context.ok()) return context.status();
  return std::make_shared<const TlsTransport>(target, *std::move(context), timeout);
}

}  // namespace everport::cli
