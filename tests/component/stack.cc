#include "tests/component/stack.h"

#include <signal.h>

#include <algorithm>
#include <boost/asio/io_context.hpp>
#include <boost/asio/local/stream_protocol.hpp>
#include <boost/beast/core/flat_buffer.hpp>
#include <boost/beast/core/tcp_stream.hpp>
#include <boost/beast/http.hpp>
#include <boost/json/parse.hpp>
#include <cstdio>
#include <cstdlib>

#include "absl/strings/str_cat.h"
#include "tests/fakes/sanitizer.h"

namespace everport::component {
namespace {
namespace http = boost::beast::http;

constexpr absl::Duration kStartTimeout = absl::Seconds(20);
constexpr absl::Duration kStopTimeout = absl::Seconds(20);
constexpr size_t kLogTail = 6000;  // bytes

std::string Tail(const fakes::Process& process, const char* name) {
  const std::string log = process.log();
  const size_t from = log.size() > kLogTail ? log.size() - kLogTail : 0;
  return absl::StrCat("--- ", name, " ---\n", log.substr(from));
}
}  // namespace

Stack::~Stack() {
  if (!fakes::kSanitized) return;
  for (fakes::Process* process : {daemon_.get(), keeper_.get()}) {
    if (process == nullptr || !process->running()) continue;
    process->Signal(SIGCONT);
    // By the signal itself: one that was still starting.
    if (const int status = process->Terminate(kStopTimeout); status != 0 && status != SIGTERM) {
      std::fprintf(stderr, "SIGTERM: wait status %d\n%s\n", status, Logs().c_str());
      std::abort();
    }
  }
}

void Stack::AddWire(const std::string& a, const std::string& b, unsigned queue_pairs, unsigned mtu) {
  AddPort({.name = a, .uplink_kind = "port", .uplink_device = b, .queue_pairs = queue_pairs, .mtu = mtu});
  AddPort({.name = b, .uplink_kind = "port", .uplink_device = a, .queue_pairs = queue_pairs, .mtu = mtu});
}

void Stack::RemovePort(const std::string& name) {
  std::erase_if(ports_, [&](const TestPort& port) { return port.name == name; });
}

std::string Stack::ConfigText() const {
  std::string text =
      absl::StrCat("[daemon]\nname = \"component\"\nrun_dir = \"", dir_ / "run", "\"\nstate_dir = \"", dir_ / "state",
                   "\"\nkeeper = ", options_.keeper ? "true" : "false", "\nmemory = \"ordinary\"\n",
                   options_.poller_cpu < 0 ? "" : absl::StrCat("pollers = [", options_.poller_cpu, "]\n"),
                   "[daemon.idle]\nmax_sleep_us = ", options_.max_sleep_us, "\n",
                   options_.listen.empty() ? "" : absl::StrCat("[daemon.listen]\n", options_.listen), options_.tables);
  for (const TestPort& port : ports_) {
    absl::StrAppend(
        &text, "[[port]]\nname = \"", port.name, "\"\nsocket = \"", Socket(port.name), "\"\n",
        port.contract.empty() ? "" : absl::StrCat("contract = \"", port.contract, "\"\n"),
        port.mac.empty() ? "" : absl::StrCat("mac = \"", port.mac, "\"\n"),
        port.failback_delay_ms < 0 ? "" : absl::StrCat("failback_delay_ms = ", port.failback_delay_ms, "\n"),
        "queue_pairs = ", port.queue_pairs, "\nmtu = ", port.mtu, "\n[[port.uplink]]\nkind = \"", port.uplink_kind,
        "\"\ndevice = \"", port.uplink_device, "\"\n",
        port.bridge.empty() ? "" : absl::StrCat("bridge = \"", port.bridge, "\"\n"));
    for (const auto& [kind, device] : port.more_uplinks)
      absl::StrAppend(&text, "[[port.uplink]]\nkind = \"", kind, "\"\ndevice = \"", device, "\"\n");
  }
  return text;
}

const std::string& Stack::WriteConfig() {
  return config_path_ = dir_.Write("everport.toml", ConfigText());
}

absl::Status Stack::Start() {
  WriteConfig();
  if (options_.keeper) {
    if (auto s = StartKeeper(); !s.ok()) return s;
  }
  return StartDaemon();
}

absl::Status Stack::StartKeeper() {
  keeper_ = std::make_unique<fakes::Process>(EVERPORT_KEEPER,
                                             fakes::Process::Options{.arguments = {"--config", config_path_}});
  if (keeper_->WaitReady(kStartTimeout)) return absl::OkStatus();
  return absl::UnavailableError(absl::StrCat("the keeper did not get ready\n", Logs()));
}

absl::Status Stack::StartDaemon(bool wait) {
  daemon_ = std::make_unique<fakes::Process>(
      EVERPORT_DAEMON,
      fakes::Process::Options{.arguments = {"--config", config_path_}, .environment = options_.daemon_environment});
  if (!wait || daemon_->WaitReady(kStartTimeout)) return absl::OkStatus();
  return absl::UnavailableError(absl::StrCat("the daemon did not get ready\n", Logs()));
}

std::string Stack::Logs() const {
  std::string text;
  if (keeper_ != nullptr) absl::StrAppend(&text, Tail(*keeper_, "everport-keeper"));
  if (daemon_ != nullptr) absl::StrAppend(&text, Tail(*daemon_, "everportd"));
  return text;
}

absl::StatusOr<Stack::Answer> Stack::Ask(const std::string& method, const std::string& target,
                                         const std::string& body) const {
  using Protocol = boost::asio::local::stream_protocol;
  boost::asio::io_context io;
  boost::beast::basic_stream<Protocol> stream(io);
  boost::system::error_code error;
  http::response<http::string_body> response;
  boost::beast::flat_buffer buffer;
  // Asynchronous, so that the stream's time limit holds.
  stream.expires_after(std::chrono::seconds(5));
  http::request<http::string_body> request(http::string_to_verb(method), target, 11);
  request.set(http::field::host, "localhost");
  request.set(http::field::connection, "close");
  request.body() = body;
  request.prepare_payload();
  stream.async_connect(Protocol::endpoint(dir_ / "run/api.sock"), [&](boost::system::error_code e) {
    if ((error = e)) return;
    http::async_write(stream, request, [&](boost::system::error_code e2, size_t) {
      if ((error = e2)) return;
      http::async_read(stream, buffer, response, [&](boost::system::error_code e3, size_t) { error = e3; });
    });
  });
  io.run();
  if (error) return absl::UnavailableError(absl::StrCat(method, " ", target, ": ", error.message()));
  return Answer{response.result_int(), response.body()};
}

absl::StatusOr<std::string> Stack::GetText(const std::string& target) const {
  absl::StatusOr<Answer> answer = Ask("GET", target, "");
  if (!answer.ok()) return answer.status();
  if (answer->status == 200) return answer->body;
  return absl::InternalError(absl::StrCat("GET ", target, ": ", answer->status, " ", answer->body));
}

absl::StatusOr<boost::json::value> Stack::Get(const std::string& target) const {
  absl::StatusOr<std::string> body = GetText(target);
  if (!body.ok()) return body.status();
  boost::system::error_code error;
  boost::json::value value = boost::json::parse(*body, error);
  if (error) return absl::DataLossError(absl::StrCat("GET ", target, ": ", error.message()));
  return value;
}

absl::Status Stack::Post(const std::string& target, const std::string& body) const {
  absl::StatusOr<Answer> answer = Ask("POST", target, body);
  if (!answer.ok()) return answer.status();
  return answer->status / 100 == 2 ? absl::OkStatus() : absl::FailedPreconditionError(answer->body);
}

absl::Status Stack::Delete(const std::string& target) const {
  absl::StatusOr<Answer> answer = Ask("DELETE", target, "");
  if (!answer.ok()) return answer.status();
  return answer->status / 100 == 2 ? absl::OkStatus() : absl::FailedPreconditionError(answer->body);
}

int64_t Stack::PortNumber(const std::string& port, const std::string& key) const {
  auto value = Get(absl::StrCat("/v1/ports/", port));
  if (!value.ok() || !value->is_object()) return -1;
  const boost::json::value* field = value->as_object().if_contains(key);
  return field == nullptr || !field->is_number() ? -1 : field->to_number<int64_t>();
}

std::string Stack::PortState(const std::string& port) const {
  auto value = Get(absl::StrCat("/v1/ports/", port));
  if (!value.ok() || !value->is_object()) return "";
  const boost::json::value* state = value->as_object().if_contains("state");
  return state == nullptr || !state->is_string() ? "" : std::string(state->as_string());
}

}  // namespace everport::component
