#pragma once

#include <boost/asio/executor_work_guard.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/post.hpp>
#include <future>
#include <memory>
#include <string>
#include <thread>

#include "backend/api/http_server.h"
#include "tests/api/fake_service.h"

namespace everport::fakes {

// A daemon that is a fake service behind a real API server, with a control thread of its own.
class FakeDaemon {
 public:
  explicit FakeDaemon(const std::string& socket, const ApiLimits& limits = {}) {
    FillWithExample(service_);
    server_ = ApiServer::Listen(io_, service_, socket, limits).value();
    thread_ = std::thread([this] { io_.run(); });
  }
  ~FakeDaemon() {
    Do([this] { server_.reset(); });
    work_.reset();
    thread_.join();
  }
  // Runs it on the control thread, to its end.
  template <typename F>
  void Do(F work) {
    std::promise<void> done;
    boost::asio::post(io_, [&] {
      work();
      done.set_value();
    });
    done.get_future().wait();
  }
  FakeService& service() { return service_; }  // on the control thread only

 private:
  boost::asio::io_context io_;
  boost::asio::executor_work_guard<boost::asio::io_context::executor_type> work_{io_.get_executor()};
  FakeService service_;
  std::unique_ptr<ApiServer> server_;
  std::thread thread_;
};

}  // namespace everport::fakes
