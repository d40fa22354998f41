// Bytes as a client sends them, through the server's parser and limits into the routes of a fake service. Several
// requests may follow each other. Every request is answered once, and every error is JSON with words in it.
#include <boost/asio/buffer.hpp>
#include <boost/beast/http.hpp>
#include <boost/json/parse.hpp>
#include <cstdint>
#include <cstdlib>
#include <string>

#include "backend/api/routes.h"
#include "tests/api/fake_service.h"

namespace {

namespace http = boost::beast::http;

void Require(bool condition) {
  if (!condition) std::abort();
}

void CheckAnswer(const everport::ApiResponse& response) {
  Require(response.status >= 200 && response.status < 600);
  if (response.content_type != "application/json" || response.status == 204) return;
  boost::json::error_code error;
  const auto value = boost::json::parse(response.body, error);
  Require(!error);
  if (response.status >= 400 && response.status != 503) Require(!value.at("error").as_string().empty());
}

void Ask(const everport::ApiRequest& request, everport::ServiceApi& service) {
  int answers = 0;
  everport::Route(request, service, [&](const everport::ApiResponse& response) {
    ++answers;
    CheckAnswer(response);
  });
  Require(answers == 1);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  everport::fakes::FakeService service;
  everport::fakes::FillWithExample(service);
  boost::asio::const_buffer rest(data, size);
  while (rest.size() > 0) {
    http::request_parser<http::string_body> parser;
    parser.header_limit(8 * 1024);
    parser.body_limit(1024 * 1024);
    parser.eager(true);
    boost::system::error_code error;
    // One call parses at most up to the body's next part.
    while (!error && !parser.is_done() && rest.size() > 0) {
      const size_t used = parser.put(rest, error);
      if (used == 0 && !error) break;
      rest += used;
    }
    if (error || !parser.is_done()) break;
    const auto& message = parser.get();
    Ask({std::string(message.method_string()), std::string(message.target()), message.body()}, service);
  }
  return 0;
}
