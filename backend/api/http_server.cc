#include "backend/api/http_server.h"

#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <boost/asio/local/stream_protocol.hpp>
#include <boost/beast/http/write.hpp>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <utility>

#include "absl/strings/str_cat.h"
#include "backend/api/accept_loop.h"
#include "backend/api/http_session.h"
#include "backend/base/log.h"
#include "backend/base/unix_address.h"
#include "backend/tls/any_stream_of.h"

namespace everport {
namespace {

namespace asio = boost::asio;
namespace beast = boost::beast;
namespace http = boost::beast::http;
using boost::system::error_code;
using Local = asio::local::stream_protocol;
using Stream = beast::basic_stream<Local, asio::io_context::executor_type>;

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

class ApiServer::Acceptor {
 public:
  Acceptor(asio::io_context& io, ServiceApi& service, const ApiLimits& limits)
      : sessions_(std::make_shared<SessionSet>(service, limits)),
        loop_(std::make_shared<AcceptLoop<Local>>(io, [this](auto socket) { OnSocket(std::move(socket)); })) {}
  ~Acceptor();

  absl::Status Bind(const std::string& path);
  void Accept() { loop_->Accept(); }
  size_t sessions() const { return sessions_->sessions().size(); }

 private:
  absl::Status MakeWay(const std::string& path);
  void OnSocket(AcceptLoop<Local>::Socket socket);

  const std::shared_ptr<SessionSet> sessions_;
  const std::shared_ptr<AcceptLoop<Local>> loop_;
  std::string path_;
  dev_t dev_ = 0;
  ino_t ino_ = 0;
};

// A file at path that nobody listens on is removed.
absl::Status ApiServer::Acceptor::MakeWay(const std::string& path) {
  struct stat st {};
  if (::lstat(path.c_str(), &st) != 0) return absl::OkStatus();  // bind says it if it is more than not being there
  if (!S_ISSOCK(st.st_mode)) {
    return absl::FailedPreconditionError(
        absl::StrCat("API socket ", path, ": a file that is no socket is in the way; remove it"));
  }
  Local::socket probe(loop_->acceptor().get_executor());
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
  auto& acceptor = loop_->acceptor();
  acceptor.open(Local(), error);
  // Before bind, so that at no time others may connect; bind takes the mode from here, less the umask.
  if (!error && ::fchmod(acceptor.native_handle(), 0660) != 0) error.assign(errno, boost::system::system_category());
  if (!error) acceptor.bind(Local::endpoint(path), error);
  if (!error && ::chmod(path.c_str(), 0660) != 0) error.assign(errno, boost::system::system_category());
  if (!error) acceptor.listen(asio::socket_base::max_listen_connections, error);
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

void ApiServer::Acceptor::OnSocket(AcceptLoop<Local>::Socket socket) {
  if (sessions_->full()) {
    const HttpReply reply = MakeHttpReply(TooManyConnections(sessions_->limits().connections), 11, false);
    error_code ignored;
    socket.non_blocking(true, ignored);  // an empty socket buffer takes it whole
    http::write(socket, reply, ignored);
    return;
  }
  auto session = std::make_shared<HttpSession>(sessions_, std::make_unique<AnyStreamOf<Stream>>(std::move(socket)));
  sessions_->Add(session);
  session->AwaitRequest();
}

ApiServer::Acceptor::~Acceptor() {
  loop_->Close();
  sessions_->EndAll();
  struct stat st {};
  if (::lstat(path_.c_str(), &st) == 0 && st.st_dev == dev_ && st.st_ino == ino_) ::unlink(path_.c_str());
}

absl::StatusOr<std::unique_ptr<ApiServer>> ApiServer::Listen(asio::io_context& io, ServiceApi& service,
                                                             const std::string& socket_path, const ApiLimits& limits) {
  auto acceptor = std::make_unique<Acceptor>(io, service, limits);
  if (absl::Status status = acceptor->Bind(socket_path); !status.ok()) return status;
  acceptor->Accept();
  return std::unique_ptr<ApiServer>(new ApiServer(std::move(acceptor)));
}

ApiServer::ApiServer(std::unique_ptr<Acceptor> acceptor) : acceptor_(std::move(acceptor)) {}
ApiServer::~ApiServer() = default;
size_t ApiServer::connections() const {
  return acceptor_->sessions();
}

}  // namespace everport
