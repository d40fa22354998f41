#include "backend/cli/client.h"

#include <boost/json/parse.hpp>
#include <boost/json/serialize.hpp>
#include <ostream>

#include "absl/strings/str_cat.h"
#include "backend/cli/format.h"

namespace everport::cli {
namespace {

absl::StatusOr<boost::json::value> Parse(const HttpReply& reply) {
  if (reply.body.empty()) return boost::json::value(nullptr);
  boost::json::error_code error;
  boost::json::value value = boost::json::parse(reply.body, error);
  if (error) {
    return absl::InternalError(absl::StrCat("everportd: its answer is not JSON: ", error.message(),
                                            "; is it everportd that listens on this socket?"));
  }
  return value;
}

// Of a reply's HTTP status. Never kInvalidArgument, which is the command line's.
absl::StatusCode RefusalCode(int http_status) {
  switch (http_status) {
    case 403:
      return absl::StatusCode::kPermissionDenied;
    case 404:
      return absl::StatusCode::kNotFound;
    case 501:
      return absl::StatusCode::kUnimplemented;
    case 503:
      return absl::StatusCode::kUnavailable;
    case 504:
      return absl::StatusCode::kDeadlineExceeded;
    default:
      return absl::StatusCode::kFailedPrecondition;
  }
}

}  // namespace

absl::Status Client::Refusal(const HttpReply& reply) {
  const auto value = Parse(reply);
  const std::string words = value.ok() ? Text(*value, "/error") : "";
  if (!words.empty()) return absl::Status(RefusalCode(reply.status), words);
  return absl::FailedPreconditionError(
      absl::StrCat("everportd: refused with HTTP status ", reply.status, "; see its log"));
}

absl::StatusOr<HttpReply> Client::Exchange(const std::string& method, const std::string& target,
                                           const std::string& body) const {
  bool waited = false;
  auto reply = http_.Do(method, target, body, [&](std::chrono::seconds time) {
    // A terminal's line is rewritten; a log gets one; a program that reads errors as JSON gets none.
    if (json_ || (waited && !io_.err_tty)) return;
    io_.err << (io_.err_tty ? "\r" : "") << "waiting for everportd: " << time.count() << " s"
            << (io_.err_tty ? "" : "\n") << std::flush;
    waited = true;
  });
  if (waited && io_.err_tty) io_.err << "\r\x1b[K" << std::flush;
  return reply;
}

absl::StatusOr<boost::json::value> Client::Do(const std::string& method, const std::string& target,
                                              const std::string& body) const {
  const auto reply = Exchange(method, target, body);
  if (!reply.ok()) return reply.status();
  if (reply->status < 200 || reply->status > 299) return Refusal(*reply);
  return Parse(*reply);
}

absl::StatusOr<boost::json::value> Client::Health() const {
  const auto reply = Exchange("GET", "/v1/health", "");
  if (!reply.ok()) return reply.status();
  auto value = Parse(*reply);
  if (value.ok() && !Text(*value, "/error").empty()) return Refusal(*reply);
  return value;
}

void Client::PrintJson(const boost::json::value& value) const {
  out() << boost::json::serialize(value) << "\n";
}

}  // namespace everport::cli
