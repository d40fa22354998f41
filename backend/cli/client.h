#pragma once

#include <boost/json/value.hpp>
#include <functional>
#include <iosfwd>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "backend/cli/http_client.h"

namespace everport::cli {

// Where a command reads and writes.
struct CliIo {
  std::istream& in;
  std::ostream& out;
  std::ostream& err;
  bool out_tty = false;  // colour, a live screen
  bool err_tty = false;
};

// What every command has: the streams, --json, and the daemon's API.
class Client {
 public:
  Client(CliIo& io, bool json, HttpClient http) : io_(io), json_(json), http_(std::move(http)) {}

  CliIo& io() const { return io_; }
  std::ostream& out() const { return io_.out; }
  std::ostream& err() const { return io_.err; }
  bool json() const { return json_; }
  const HttpClient& http() const { return http_; }

  // The reply's JSON (null for 204). A refusal is an error with the daemon's words. After 2 s says on stderr that it
  // waits.
  absl::StatusOr<boost::json::value> Do(const std::string& method, const std::string& target,
                                        const std::string& body = "") const;
  absl::StatusOr<boost::json::value> Get(const std::string& target) const { return Do("GET", target); }
  // GET /v1/health, which has a body to show whether it is 200 or 503.
  absl::StatusOr<boost::json::value> Health() const;
  // Writes value as one line of JSON.
  void PrintJson(const boost::json::value& value) const;

  static absl::Status Refusal(const HttpReply& reply);

 private:
  absl::StatusOr<HttpReply> Exchange(const std::string& method, const std::string& target,
                                     const std::string& body) const;

  CliIo& io_;
  bool json_;
  HttpClient http_;
};

}  // namespace everport::cli
