#include "backend/cli/http_client.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <boost/asio/io_context.hpp>
#include <boost/asio/local/stream_protocol.hpp>
#include <boost/asio/read_until.hpp>
#include <boost/asio/streambuf.hpp>
#include <boost/asio/write.hpp>
#include <optional>
#include <thread>

#include "tests/fakes/temp_dir.h"

namespace everport::cli {
namespace {

using ::testing::HasSubstr;
using Local = boost::asio::local::stream_protocol;

// Listens; once told to, takes one client, waits for its request and answers with these bytes.
class Server {
 public:
  explicit Server(const std::string& path) : acceptor_(io_, Local::endpoint(path)) {}
  ~Server() {
    if (thread_.joinable()) thread_.join();
  }
  void Answer(std::string bytes) {
    thread_ = std::thread([this, bytes = std::move(bytes)] {
      Local::socket client = acceptor_.accept();
      boost::asio::streambuf request;
      boost::asio::read_until(client, request, "\r\n\r\n");
      boost::asio::write(client, boost::asio::buffer(bytes));
    });
  }

 private:
  boost::asio::io_context io_;
  Local::acceptor acceptor_;
  std::thread thread_;
};

class HttpClientTest : public testing::Test {
 protected:
  absl::Status Lines(const HttpClient& client, std::vector<std::string>* lines = nullptr) {
    return client.Lines(
        "/v1/events",
        [&](std::string_view line) {
          if (lines) lines->emplace_back(line);
          return true;
        },
        [](const HttpReply& reply) { return absl::FailedPreconditionError(reply.body); });
  }

  fakes::TempDir dir;
  const std::string path = dir / "s";
  Server server{path};
};

TEST_F(HttpClientTest, ServerThatSaysNothingIsNotWaitedForForEver) {
  const HttpClient client(path, std::chrono::milliseconds(50));
  EXPECT_EQ(client.Do("GET", "/").status().code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_EQ(Lines(client).code(), absl::StatusCode::kDeadlineExceeded);
}

TEST_F(HttpClientTest, AnswerThatBreaksOffIsAnError) {
  server.Answer("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{");
  const auto reply = HttpClient(path).Do("GET", "/");
  EXPECT_EQ(reply.status().code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(reply.status().message()), HasSubstr("the answer broke off"));
}

TEST_F(HttpClientTest, AnswerThatIsNotHttpIsAnError) {
  server.Answer("SSH-2.0-OpenSSH_9.2\r\n");
  EXPECT_EQ(HttpClient(path).Do("GET", "/").status().code(), absl::StatusCode::kUnavailable);
}

TEST_F(HttpClientTest, LinesComeWholeWhateverTheChunks) {
  server.Answer(
      "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\none\r\n5\r\n\ntwo\n\r\n4\r\nrest\r\n0\r\n\r\n");
  std::vector<std::string> lines;
  EXPECT_TRUE(Lines(HttpClient(path), &lines).ok());
  EXPECT_EQ(lines, (std::vector<std::string>{"one", "two"}));
}

TEST_F(HttpClientTest, RefusalOfLinesHasItsBody) {
  server.Answer("HTTP/1.1 400 Bad Request\r\nContent-Length: 2\r\n\r\nno");
  EXPECT_EQ(Lines(HttpClient(path)), absl::FailedPreconditionError("no"));
}

TEST(HttpClientPathTest, TooLongForASocketIsRefused) {
  EXPECT_EQ(HttpClient("/" + std::string(107, 'x')).Do("GET", "/").status().code(), absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace everport::cli
