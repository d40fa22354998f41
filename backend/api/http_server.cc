#include "backend/api/http_server.h"

#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <boost/asio/local/stream_protocol.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/write.hpp>
#include <boost/beast/core/basic_stream.hpp>
#include <boost/beast/core/flat_buffer.hpp>
#include <boost/beast/http.hpp>
#include <boost/system/error_code.hpp>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <optional>
#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "backend/api/routes.h"
#include "backend/base/log.h"
#include "backend/base/unix_address.h"

namespace everport {
namespace {

namespace asio = boost::asio;
namespace beast = boost::beast;
namespace http = boost::beast::http;
using boost::system::error_code;
using Local = asio::local::stream_protocol;
using Stream = beast::basic_stream<Local, asio::io_context::executor_type>;
using Reply = http::response<http::string_body>;

// After a refusal the rest of the request is read and thrown away, so that the client gets to see the answer.
constexpr std::chrono::seconds kDrainTime{2};
constexpr size_t kDrainBytes = 8 * 1024 * 1024;

Reply MakeReply(ApiResponse&& response, unsigned version, bool keep_alive) {
  Reply reply{static_cast<http::status>(response.status), version};
  reply.keep_alive(keep_alive);
  if (!response.allow.empty()) reply.set(http::field::allow, response.allow);
  if (!response.location.empty()) reply.set(http::field::location, response.location);
  if (response.status != 204) {
    reply.set(http::field::content_type, response.content_type);
    reply.body() = std::move(response.body);
    reply.prepare_payload();
  }
  return reply;
}

std::string Errno() {
  return std::strerror(errno);
}

// Who is at the other end of a socket: "everportd (pid 123)".
std::string Listener(int socket, bool connected) {
  ucred peer{};
  socklen_t size = sizeof peer;
  if (!connected || ::getsockopt(socket, SOL_SOCKET, SO_PEERCRED, &peer, &size) != 0 || peer.pid <= 0) {
    return "another daemon";
  }
  std::string name = "a process";
  std::ifstream comm(absl::StrCat("/proc/", peer.pid, "/comm"));
  std::getline(comm, name);
  return absl::StrCat(name.empty() ? "a process" : name, " (pid ", peer.pid, ")");
}

}  // namespace

// Accepts, and knows all sessions. Outlived by sessions' last handlers, which do nothing once it is closed.
class ApiServer::Acceptor : public std::enable_shared_from_this<Acceptor> {
 public:
  class Session;

  Acceptor(asio::io_context& io, ServiceApi& service, const ApiLimits& limits)
      : service_(service), limits_(limits), acceptor_(io), retry_(io) {}

  absl::Status Bind(const std::string& path);
  void Accept();
  void Close();
  void Forget(const std::shared_ptr<Session>& session) { sessions_.erase(session); }

  ServiceApi& service() { return service_; }
  const ApiLimits& limits() const { return limits_; }
  size_t sessions() const { return sessions_.size(); }

 private:
  absl::Status MakeWay(const std::string& path);
  void OnAccept(error_code error, asio::basic_stream_socket<Local, asio::io_context::executor_type> socket);

  ServiceApi& service_;
  const ApiLimits limits_;
  asio::basic_socket_acceptor<Local, asio::io_context::executor_type> acceptor_;
  asio::basic_waitable_timer<std::chrono::steady_clock, asio::wait_traits<std::chrono::steady_clock>,
                             asio::io_context::executor_type>
      retry_;
  std::set<std::shared_ptr<Session>> sessions_;
  bool closed_ = false;
  std::string path_;
  dev_t dev_ = 0;
  ino_t ino_ = 0;
};

// One client. Waits for a request, reads it, routes it, writes the reply, and so on; or ends as a stream of events.
class ApiServer::Acceptor::Session : public std::enable_shared_from_this<Session> {
 public:
  Session(std::weak_ptr<Acceptor> server, Stream::socket_type socket, const ApiLimits& limits)
      : server_(std::move(server)), limits_(limits), stream_(std::move(socket)) {}

  void AwaitRequest();
  // The end, from whatever state; further handlers come with an error and do nothing.
  void End();

 private:
  auto Bind(void (Session::*handler)(error_code, size_t)) {
    return
        [self = shared_from_this(), handler](error_code error, size_t bytes) { (self.get()->*handler)(error, bytes); };
  }
  void ReadRequest();
  void OnFirstBytes(error_code error, size_t bytes);
  void OnRequest(error_code error, size_t bytes);
  void Refuse(error_code error);
  void Respond(ApiResponse response);
  void Write(Reply reply);
  void OnWritten(error_code error, size_t bytes);
  void Drain(error_code error, size_t bytes);

  void Follow(ApiResponse response);
  void OnHead(error_code error, size_t bytes);
  void OnEvent(const EventView& event);
  void OnClientSpoke(error_code error, size_t bytes);
  void WriteEvents();
  void OnEventsWritten(error_code error, size_t bytes);

  const std::weak_ptr<Acceptor> server_;
  const ApiLimits limits_;
  Stream stream_;
  beast::flat_buffer buffer_;
  std::optional<http::request_parser<http::string_body>> parser_;
  unsigned version_ = 11;
  bool keep_alive_ = false;
  bool ended_ = false;
  Reply reply_;
  size_t drained_ = 0;

  http::response<http::empty_body> head_;
  std::optional<http::response_serializer<http::empty_body>> head_serializer_;
  int subscription_ = -1;
  bool streaming_ = false;  // the head is written
  bool writing_ = false;    // out_ is on its way
  std::string queue_, out_;
};

void ApiServer::Acceptor::Session::End() {
  if (std::exchange(ended_, true)) return;
  const auto self = shared_from_this();
  if (const auto server = server_.lock()) {
    if (subscription_ >= 0) server->service().UnsubscribeEvents(subscription_);
    server->Forget(self);
  }
  stream_.close();
}

void ApiServer::Acceptor::Session::AwaitRequest() {
  if (buffer_.size() > 0) return ReadRequest();  // the client did not wait for the last reply
  stream_.expires_after(limits_.idle);
  stream_.async_read_some(buffer_.prepare(4096), Bind(&Session::OnFirstBytes));
}

void ApiServer::Acceptor::Session::OnFirstBytes(error_code error, size_t bytes) {
  if (error) return End();
  buffer_.commit(bytes);
  ReadRequest();
}

void ApiServer::Acceptor::Session::ReadRequest() {
  parser_.emplace();
  parser_->header_limit(static_cast<uint32_t>(limits_.header_bytes));
  parser_->body_limit(limits_.body_bytes);
  stream_.expires_after(limits_.request);  // for all of it: a client that trickles gets no more
  http::async_read(stream_, buffer_, *parser_, Bind(&Session::OnRequest));
}

void ApiServer::Acceptor::Session::OnRequest(error_code error, size_t) {
  if (error) return Refuse(error);
  const auto server = server_.lock();
  if (!server || ended_) return End();
  const auto& message = parser_->get();
  version_ = message.version();
  keep_alive_ = message.keep_alive();
  ApiRequest request{std::string(message.method_string()), std::string(message.target()), message.body()};
  stream_.expires_never();
  Route(request, server->service(), [weak = weak_from_this()](ApiResponse response) {
    if (const auto self = weak.lock()) self->Respond(std::move(response));
  });
}

void ApiServer::Acceptor::Session::Refuse(error_code error) {
  // What is no HTTP error is a client that went, or that ran out of time: basic_stream has closed the socket then.
  if (error == http::error::end_of_stream || error.category() != make_error_code(http::error::bad_method).category()) {
    return End();
  }
  keep_alive_ = false;
  if (error == http::error::body_limit) {
    return Respond(ErrorResponse(
        413, absl::StrCat("request: body of more than ", limits_.body_bytes, " bytes; send ports one by one")));
  }
  if (error == http::error::header_limit) {
    return Respond(ErrorResponse(431, absl::StrCat("request: header of more than ", limits_.header_bytes,
                                                   " bytes; the API needs none but Host and Content-Length")));
  }
  Respond(ErrorResponse(
      400, absl::StrCat("request: not HTTP/1.1: ", error.message(), "; use everportctl or curl --unix-socket")));
}

void ApiServer::Acceptor::Session::Respond(ApiResponse response) {
  if (ended_) return;
  if (response.follow_events) return Follow(std::move(response));
  Write(MakeReply(std::move(response), version_, keep_alive_));
}

void ApiServer::Acceptor::Session::Write(Reply reply) {
  reply_ = std::move(reply);
  stream_.expires_after(limits_.request);
  http::async_write(stream_, reply_, Bind(&Session::OnWritten));
}

void ApiServer::Acceptor::Session::OnWritten(error_code error, size_t) {
  if (error) return End();
  if (keep_alive_) return AwaitRequest();
  error_code ignored;
  stream_.socket().shutdown(Local::socket::shutdown_send, ignored);
  stream_.expires_after(kDrainTime);
  Drain({}, 0);
}

void ApiServer::Acceptor::Session::Drain(error_code error, size_t bytes) {
  drained_ += bytes;
  if (error || drained_ > kDrainBytes) return End();
  buffer_.clear();
  stream_.async_read_some(buffer_.prepare(64 * 1024), Bind(&Session::Drain));
}

void ApiServer::Acceptor::Session::Follow(ApiResponse response) {
  const auto server = server_.lock();
  if (!server) return End();
  queue_ = std::move(response.body);
  subscription_ = server->service().SubscribeEvents([weak = weak_from_this()](const EventView& event) {
    if (const auto self = weak.lock()) self->OnEvent(event);
  });
  head_ = http::response<http::empty_body>(http::status::ok, version_);
  head_.set(http::field::content_type, response.content_type);
  head_.keep_alive(false);
  head_.chunked(version_ >= 11);
  head_serializer_.emplace(head_);
  stream_.expires_after(limits_.request);
  http::async_write_header(stream_, *head_serializer_, Bind(&Session::OnHead));
}

void ApiServer::Acceptor::Session::OnHead(error_code error, size_t) {
  if (error || ended_) return End();
  streaming_ = true;
  stream_.expires_never();
  buffer_.clear();
  stream_.async_read_some(buffer_.prepare(1), Bind(&Session::OnClientSpoke));
  WriteEvents();
}

// A reader of events has nothing more to say; what it says, or that it goes, ends the stream.
void ApiServer::Acceptor::Session::OnClientSpoke(error_code error, size_t) {
  if (error == asio::error::operation_aborted) return;  // a write has timed out, and its handler comes next
  End();
}

void ApiServer::Acceptor::Session::OnEvent(const EventView& event) {
  if (ended_) return;
  queue_ += EventLine(event);
  if (queue_.size() > limits_.event_queue_bytes) {
    spdlog::warn("api: a reader of /v1/events is {} bytes behind; dropped", queue_.size());
    queue_.clear();
    // Not from inside the service's call: it may be going through its listeners.
    return asio::post(stream_.get_executor(), [self = shared_from_this()] { self->End(); });
  }
  if (streaming_) WriteEvents();
}

void ApiServer::Acceptor::Session::WriteEvents() {
  if (writing_ || queue_.empty() || ended_) return;
  writing_ = true;
  out_ = std::exchange(queue_, {});
  stream_.expires_after(limits_.request);
  if (version_ >= 11) {
    asio::async_write(stream_, http::make_chunk(asio::buffer(out_)), Bind(&Session::OnEventsWritten));
  } else {
    asio::async_write(stream_, asio::buffer(out_), Bind(&Session::OnEventsWritten));
  }
}

void ApiServer::Acceptor::Session::OnEventsWritten(error_code error, size_t) {
  writing_ = false;
  if (error == beast::error::timeout) {
    spdlog::warn("api: a reader of /v1/events took nothing for {} ms; dropped", limits_.request.count());
  }
  if (error || ended_) return End();
  WriteEvents();
}

// A file at path that nobody listens on is removed.
absl::Status ApiServer::Acceptor::MakeWay(const std::string& path) {
  struct stat st {};
  if (::lstat(path.c_str(), &st) != 0) return absl::OkStatus();  // bind says it if it is more than not being there
  if (!S_ISSOCK(st.st_mode)) {
    return absl::FailedPreconditionError(
        absl::StrCat("API socket ", path, ": a file that is no socket is in the way; remove it"));
  }
  Local::socket probe(acceptor_.get_executor());
  error_code error;
  probe.connect(Local::endpoint(path), error);
  // Full backlog (EAGAIN) or no permission: somebody is there all the same.
  if (error == asio::error::connection_refused) {
    if (::unlink(path.c_str()) == 0 || errno == ENOENT) return absl::OkStatus();
    return absl::PermissionDeniedError(absl::StrCat(
        "API socket ", path, ": the stale file cannot be removed: ", Errno(), "; remove it, or run as its owner"));
  }
  return absl::AlreadyExistsError(absl::StrCat(
      "API socket ", path, ": ", Listener(probe.native_handle(), !error),
      " listens there, and a run_dir serves one daemon; stop it, or give this one a run_dir (and a keeper) "
      "of its own"));
}

absl::Status ApiServer::Acceptor::Bind(const std::string& path) {
  if (const absl::Status status = UnixAddress::Of(path).status(); !status.ok()) {
    return absl::InvalidArgumentError(
        absl::StrCat("API socket ", std::string(status.message()), " ([daemon].run_dir)"));
  }
  if (absl::Status status = MakeWay(path); !status.ok()) return status;
  error_code error;
  acceptor_.open(Local(), error);
  // Before bind, so that at no time others may connect; bind takes the mode from here, less the umask.
  if (!error && ::fchmod(acceptor_.native_handle(), 0660) != 0) error.assign(errno, boost::system::system_category());
  if (!error) acceptor_.bind(Local::endpoint(path), error);
  if (!error && ::chmod(path.c_str(), 0660) != 0) error.assign(errno, boost::system::system_category());
  if (!error) acceptor_.listen(asio::socket_base::max_listen_connections, error);
  if (error) {
    return absl::UnavailableError(
        absl::StrCat("API socket ", path, ": ", error.message(), "; check that its folder exists and may be written"));
  }
  struct stat st {};
  if (::stat(path.c_str(), &st) == 0) {
    dev_ = st.st_dev;
    ino_ = st.st_ino;
  }
  path_ = path;
  return absl::OkStatus();
}

void ApiServer::Acceptor::Accept() {
  acceptor_.async_accept(
      [self = shared_from_this()](error_code error, auto socket) { self->OnAccept(error, std::move(socket)); });
}

void ApiServer::Acceptor::OnAccept(error_code error,
                                   asio::basic_stream_socket<Local, asio::io_context::executor_type> socket) {
  if (closed_) return;
  if (error) {  // out of descriptors, mostly: it passes
    spdlog::warn("api: accept: {}; trying again in 100 ms", error.message());
    retry_.expires_after(std::chrono::milliseconds(100));
    return retry_.async_wait([self = shared_from_this()](error_code canceled) {
      if (!canceled && !self->closed_) self->Accept();
    });
  }
  if (sessions_.size() >= limits_.connections) {
    const Reply reply = MakeReply(ErrorResponse(503, absl::StrCat("api: ", limits_.connections,
                                                                  " connections are open already; try again later")),
                                  11, false);
    error_code ignored;
    socket.non_blocking(true, ignored);  // an empty socket buffer takes it whole
    http::write(socket, reply, ignored);
  } else {
    auto session = std::make_shared<Session>(weak_from_this(), std::move(socket), limits_);
    sessions_.insert(session);
    session->AwaitRequest();
  }
  Accept();
}

void ApiServer::Acceptor::Close() {
  closed_ = true;
  error_code ignored;
  acceptor_.close(ignored);
  retry_.cancel();
  for (const auto& session : std::set(sessions_)) session->End();
  struct stat st {};
  if (::lstat(path_.c_str(), &st) == 0 && st.st_dev == dev_ && st.st_ino == ino_) ::unlink(path_.c_str());
}

absl::StatusOr<std::unique_ptr<ApiServer>> ApiServer::Listen(asio::io_context& io, ServiceApi& service,
                                                             const std::string& socket_path, const ApiLimits& limits) {
  auto acceptor = std::make_shared<Acceptor>(io, service, limits);
  if (absl::Status status = acceptor->Bind(socket_path); !status.ok()) return status;
  acceptor->Accept();
  return std::unique_ptr<ApiServer>(new ApiServer(std::move(acceptor)));
}

ApiServer::ApiServer(std::shared_ptr<Acceptor> acceptor) : acceptor_(std::move(acceptor)) {}
ApiServer::~ApiServer() {
  acceptor_->Close();
}
size_t ApiServer::connections() const {
  return acceptor_->sessions();
}

}  // namespace everport
