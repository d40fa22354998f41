#include "backend/api/tls_listener.h"

#include <netinet/in.h>
#include <netinet/tcp.h>

#include <boost/asio/ip/address.hpp>
#include <boost/asio/ssl/error.hpp>
#include <ctime>
#include <list>
#include <map>
#include <utility>

#include "absl/strings/str_cat.h"
#include "backend/api/accept_loop.h"
#include "backend/api/http_session.h"
#include "backend/api/tls_handshake.h"
#include "backend/base/log.h"
#include "backend/base/refusal_log.h"
#include "backend/tls/any_stream_of.h"
#include "backend/tls/context.h"
#include "backend/tls/failure.h"
#include "backend/tls/listen_files.h"

namespace everport {
namespace {

namespace asio = boost::asio;
namespace beast = boost::beast;
using boost::system::error_code;
using Tcp = asio::ip::tcp;

constexpr int64_t kExpiryWarning = 30 * 24 * 3600;  // seconds

int64_t Now() {
  return std::time(nullptr);
}

TlsError ErrorOf(const error_code& error) {
  if (error == beast::error::timeout) return {.kind = TlsError::Kind::kTimeout};
  if (error.category() == asio::error::get_ssl_category())
    return {.kind = TlsError::Kind::kSsl, .ssl = static_cast<unsigned>(error.value())};
  return {.kind = TlsError::Kind::kClosed};
}

std::string AddressOf(const Tcp::socket::lowest_layer_type::endpoint_type& endpoint) {
  asio::ip::address address = endpoint.address();
  if (address.is_v6() && address.to_v6().is_v4_mapped())
    address = asio::ip::make_address_v4(asio::ip::v4_mapped, address.to_v6());
  return address.to_string();
}

// A client whose certificate has been verified.
class TlsSession : public HttpSession {
 public:
  TlsSession(const std::shared_ptr<SessionSet>& set, TlsStream stream, CertificateInfo certificate)
      : HttpSession(set, std::make_unique<AnyStreamOf<TlsStream>>(std::move(stream))),
        certificate_(std::move(certificate)) {}
  const CertificateInfo& certificate() const { return certificate_; }

 private:
  const CertificateInfo certificate_;
};

std::string PlainHttpAnswer() {
  const std::string body =
      "{\"error\":\"api: this port speaks HTTPS with client certificates alone; use https:// and a certificate of the "
      "daemon's CA\"}\n";
  return absl::StrCat(
      "HTTP/1.1 400 Bad Request\r\nContent-Type: application/json\r\nConnection: close\r\nContent-Length: ",
      body.size(), "\r\n\r\n", body);
}

}  // namespace

class TlsListener::Impl : public std::enable_shared_from_this<Impl> {
 public:
  Impl(asio::io_context& io, ServiceApi& service, Tell tell, const ApiLimits& limits)
      : io_(io), tell_(std::move(tell)), sessions_(std::make_shared<SessionSet>(service, limits)), retry_(io) {}

  void Configure(const std::optional<ListenConfig>& config);
  std::optional<ListenerView> View() const;
  void Close();

 private:
  void Apply();
  absl::Status TakeFiles();
  absl::Status TakeAddress();
  std::string Problem(const absl::Status& status) const;
  void RetryLater();
  bool Allowed(const CertificateInfo& certificate) const;
  void EndDisallowed();

  void OnSocket(AcceptLoop<Tcp>::Socket socket);
  void OnHandshake(TlsHandshake& handshake, error_code error);
  void OnVerified(TlsHandshake& handshake);
  void Forget(const TlsHandshake& handshake);
  void Refuse(TlsCause cause, const std::string& text);

  asio::io_context& io_;
  const Tell tell_;
  const std::shared_ptr<SessionSet> sessions_;
  std::optional<ListenConfig> config_;  // what is wanted
  // What is in force.
  std::shared_ptr<const TlsContext> context_;
  std::unique_ptr<asio::ssl::context> asio_context_;
  std::shared_ptr<AcceptLoop<Tcp>> loop_;
  std::string address_;  // of loop_

  std::string problem_;  // why that is not what is wanted; empty: it is
  asio::steady_timer retry_;
  std::list<std::shared_ptr<TlsHandshake>> handshakes_;  // and those that linger; the oldest first
  uint64_t accepted_ = 0;
  std::map<TlsCause, uint64_t> refused_;
  RefusalLog log_{"api", "more connections were refused; everport_api_tcp_refused_total tells why"};
};

void TlsListener::Impl::Configure(const std::optional<ListenConfig>& config) {
  const bool was_configured = config_.has_value();
  if (!config) {
    Close();
    if (was_configured) tell_("the API over TCP has ended: [daemon.listen] is gone", false);
    return;
  }
  config_ = config;
  problem_.clear();
  retry_.cancel();
  EndDisallowed();
  Apply();
}

void TlsListener::Impl::Apply() {
  absl::Status status = TakeFiles();
  if (context_ && address_ != config_->address) {
    const absl::Status bound = TakeAddress();
    if (status.ok()) status = bound;
  }
  const std::string problem = Problem(status);
  if (!problem.empty() && problem != problem_) tell_(problem, true);
  problem_ = problem;
  if (!problem_.empty()) RetryLater();
}

absl::Status TlsListener::Impl::TakeFiles() {
  auto context = TlsContext::Load(ListenFiles(*config_), TlsSide::kServer, Now());
  if (!context.ok()) return context.status();
  const CertificateInfo& now = (*context)->own();
  const bool renewed = context_ && context_->own().not_after != now.not_after;
  context_ = *std::move(context);
  SSL_CTX_up_ref(context_->native());
  asio_context_ = std::make_unique<asio::ssl::context>(context_->native());  // owns one reference
  if (renewed) {
    tell_(absl::StrCat("the API over TCP has a new certificate (", now.subject, "), valid until ",
                       DateText(now.not_after)),
          false);
  }
  return absl::OkStatus();
}

absl::Status TlsListener::Impl::TakeAddress() {
  auto loop = std::make_shared<AcceptLoop<Tcp>>(io_, [this](auto socket) { OnSocket(std::move(socket)); });
  const Tcp::endpoint endpoint(asio::ip::make_address(config_->ip), config_->port);
  auto& acceptor = loop->acceptor();
  error_code error;
  acceptor.open(endpoint.protocol(), error);
  if (!error) acceptor.set_option(asio::socket_base::reuse_address(true), error);
  if (!error) acceptor.bind(endpoint, error);
  if (!error) acceptor.listen(asio::socket_base::max_listen_connections, error);
  if (error) {
    const char* mend = error == asio::error::address_in_use
                           ? "another program listens there: `ss -ltnp` tells which; end it, or choose another port"
                           : "name an address of this host, and a port that everportd may use";
    return absl::UnavailableError(
        absl::StrCat("daemon.listen.address: ", config_->address, ": ", error.message(), "; ", mend));
  }
  if (loop_) loop_->Close();
  loop_ = std::move(loop);
  address_ = config_->address;
  loop_->Accept();
  tell_(absl::StrCat("the API listens on ", address_, " (TLS, ", context_->own().subject, ")"), false);
  return absl::OkStatus();
}

std::string TlsListener::Impl::Problem(const absl::Status& status) const {
  if (status.ok()) return "";
  const char* meanwhile = !loop_ ? "; until then the API is not reached over TCP"
                                 : "; until then the API over TCP goes on with what it had before";
  return absl::StrCat(status.message(), meanwhile);
}

void TlsListener::Impl::RetryLater() {
  retry_.expires_after(sessions_->limits().retry);
  retry_.async_wait([self = shared_from_this()](error_code canceled) {
    if (!canceled && self->config_) self->Apply();
  });
}

bool TlsListener::Impl::Allowed(const CertificateInfo& certificate) const {
  const auto& allow = config_->allow;
  if (allow.empty()) return true;
  for (const std::string& name : allow) {
    if (certificate.HasName(name)) return true;
  }
  return false;
}

void TlsListener::Impl::EndDisallowed() {
  for (const auto& session : std::set(sessions_->sessions())) {
    const auto& client = static_cast<const TlsSession&>(*session);  // there are no others in this set
    if (!Allowed(client.certificate())) session->End();
  }
}

void TlsListener::Impl::OnSocket(AcceptLoop<Tcp>::Socket socket) {
  error_code error;
  const auto endpoint = socket.remote_endpoint(error);
  if (error) return;  // it has gone
  socket.set_option(Tcp::no_delay(true), error);
  // A reader of events has nothing to say, so that its host's end would not be noticed.
  socket.set_option(asio::socket_base::keep_alive(true), error);
  using Seconds = asio::detail::socket_option::integer<IPPROTO_TCP, TCP_KEEPIDLE>;
  socket.set_option(Seconds(60), error);
  const ApiLimits& limits = sessions_->limits();
  if (handshakes_.size() >= limits.handshakes) {
    const auto oldest = handshakes_.front();
    handshakes_.pop_front();
    Refuse(TlsCause::kCrowded,
           absl::StrCat(oldest->address(), ": dropped in its TLS handshake, which was the oldest of ",
                        limits.handshakes, " at a time; is somebody flooding the port?"));
    oldest->End();
  }
  handshakes_.push_back(
      std::make_shared<TlsHandshake>(std::move(socket), *asio_context_, AddressOf(endpoint),
                                     [self = shared_from_this()](TlsHandshake& handshake, error_code result) {
                                       self->OnHandshake(handshake, result);
                                     }));
  handshakes_.back()->Start(limits.handshake);
}

void TlsListener::Impl::OnHandshake(TlsHandshake& handshake, error_code error) {
  if (!error) {
    OnVerified(handshake);
    return Forget(handshake);
  }
  const TlsRefusal refusal = DescribeClientFault(handshake.address(), ErrorOf(error), handshake.peer());
  Refuse(refusal.cause, refusal.text);
  if (refusal.cause == TlsCause::kTimeout || refusal.cause == TlsCause::kClosed) return Forget(handshake);
  handshake.Linger(refusal.cause == TlsCause::kPlainHttp ? PlainHttpAnswer() : "",
                   [self = shared_from_this()](TlsHandshake& gone) { self->Forget(gone); });
}

void TlsListener::Impl::Forget(const TlsHandshake& handshake) {
  handshakes_.remove_if([&](const auto& other) { return other.get() == &handshake; });
}

void TlsListener::Impl::OnVerified(TlsHandshake& handshake) {
  const CertificateInfo certificate = handshake.peer().certificate;
  const std::string address = handshake.address();
  const bool full = sessions_->full();
  auto session = std::make_shared<TlsSession>(sessions_, handshake.TakeStream(), certificate);
  if (full) {  // those that are turned away are not among the sessions, and end by themselves
    const size_t limit = sessions_->limits().connections;
    Refuse(TlsCause::kTooMany, absl::StrCat(address, ": turned away: ", limit,
                                            " connections are open already; it may "
                                            "try again later"));
    return session->TurnAway(TooManyConnections(limit));
  }
  if (!Allowed(certificate)) {
    Refuse(TlsCause::kNotAllowed, absl::StrCat("certificate of ", address, " (", certificate.subject,
                                               ") is not in [daemon.listen] allow; add its name there and reload"));
    return session->TurnAway(ErrorResponse(
        403, absl::StrCat("api: the certificate (", certificate.subject,
                          ") is not in [daemon.listen] allow of this daemon; add its name there and reload it")));
  }
  ++accepted_;
  spdlog::debug("api: {} ({}) connected", address, certificate.subject);
  sessions_->Add(session);
  session->AwaitRequest();
}

void TlsListener::Impl::Refuse(TlsCause cause, const std::string& text) {
  ++refused_[cause];
  log_.Note(text, std::chrono::steady_clock::now());
}

std::optional<ListenerView> TlsListener::Impl::View() const {
  if (!config_) return std::nullopt;
  ListenerView view;
  if (loop_) view.address = address_;
  view.connections = sessions_->sessions().size();
  view.accepted = accepted_;
  for (const TlsCause cause : kTlsCauses) {
    const auto found = refused_.find(cause);
    view.refused.emplace_back(TlsCauseName(cause), found == refused_.end() ? 0 : found->second);
  }
  if (!problem_.empty()) view.problems.push_back(problem_);
  if (!context_) return view;
  view.certificate_not_after = context_->own().not_after;
  const int64_t left = view.certificate_not_after - Now();
  if (left < kExpiryWarning) {
    view.problems.push_back(absl::StrCat(context_->files().certificate_label, ": ", context_->files().certificate,
                                         ": the certificate in force ", left < 0 ? "expired on " : "expires on ",
                                         DateText(view.certificate_not_after),
                                         "; renew it, and run: systemctl reload everportd"));
  }
  return view;
}

// Also breaks the circle of handshakes that refer to this.
void TlsListener::Impl::Close() {
  config_.reset();
  problem_.clear();
  retry_.cancel();
  if (loop_) loop_->Close();
  loop_.reset();
  address_.clear();
  for (const auto& handshake : std::exchange(handshakes_, {})) handshake->End();
  sessions_->EndAll();
  context_.reset();
  asio_context_.reset();
}

TlsListener::TlsListener(asio::io_context& io, ServiceApi& service, Tell tell, const ApiLimits& limits)
    : impl_(std::make_shared<Impl>(io, service, std::move(tell), limits)) {}

TlsListener::~TlsListener() {
  impl_->Close();
}

void TlsListener::Configure(const std::optional<ListenConfig>& config) {
  impl_->Configure(config);
}

std::optional<ListenerView> TlsListener::View() const {
  return impl_->View();
}

}  // namespace everport
