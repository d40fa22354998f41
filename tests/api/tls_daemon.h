#pragma once

#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <boost/asio/executor_work_guard.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/post.hpp>
#include <chrono>
#include <functional>
#include <future>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "backend/api/tls_listener.h"
#include "tests/api/fake_service.h"
#include "tests/fakes/certificates.h"
#include "tests/fakes/temp_dir.h"

namespace everport::fakes {

// A daemon that is a fake service behind the API over TCP, with a control thread of its own, and its files. It has a
// loopback address of this process' own, so that tests that run at a time do not meet.
class TlsDaemon {
 public:
  explicit TlsDaemon(const ApiLimits& limits = {}) {
    FillWithExample(service_);
    config_.ip =
        absl::StrCat("127.", 1 + (::getpid() >> 16) % 200, ".", (::getpid() >> 8) & 255, ".", ::getpid() & 255);
    config_.port = 9440;
    config_.address = absl::StrCat(config_.ip, ":9440");
    WriteFiles(ca_.Issue(Spec()));
    listener_ = std::make_unique<TlsListener>(
        io_, service_, [this](const std::string& message, bool) { told_.push_back(message); }, limits);
    thread_ = std::thread([this] { io_.run(); });
  }
  ~TlsDaemon() {
    Do([this] { listener_.reset(); });
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
  void Configure() {
    Do([this] { listener_->Configure(config_); });
  }
  void Stop() {
    Do([this] { listener_->Configure(std::nullopt); });
  }
  std::optional<ListenerView> View() {
    std::optional<ListenerView> view;
    Do([&] { view = listener_->View(); });
    return view;
  }
  std::vector<std::string> TakeTold() {
    std::vector<std::string> told;
    Do([&] { told = std::exchange(told_, {}); });
    return told;
  }
  uint64_t Refused(const std::string& cause) {
    const auto view = View();
    for (const auto& [name, count] : view->refused) {
      if (name == cause) return count;
    }
    return ~uint64_t{0};
  }
  // False after 20 s.
  bool Until(const std::function<bool()>& done) {
    const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(20);
    while (!done()) {
      if (std::chrono::steady_clock::now() > end) return false;
      std::this_thread::sleep_for(std::chrono::milliseconds(2));
    }
    return true;
  }
  bool UntilRefused(const std::string& cause, uint64_t count = 1) {
    return Until([&] { return Refused(cause) == count; });
  }

  // A certificate for its address.
  CertificateSpec Spec() const {
    return {.name = "host-a", .alt_names = absl::StrCat("DNS:host-a,IP:", config_.ip), .usage = "serverAuth"};
  }
  void WriteFiles(const IssuedCertificate& issued) {
    config_.certificate = dir_.Write("host.crt", issued.certificate);
    config_.key = dir_.Write("host.key", issued.key);
    config_.ca = dir_.Write("ca.crt", ca_.pem());
    ::chmod(config_.key.c_str(), 0600);
  }
  // A client's files.
  TlsFiles Client(const IssuedCertificate& issued, const std::string& ca = "") {
    const std::string name = absl::StrCat("client", ++clients_);
    return {.certificate = dir_.Write(name + ".crt", issued.certificate),
            .key = dir_.Write(name + ".key", issued.key),
            .ca = dir_.Write(name + ".ca", ca.empty() ? ca_.pem() : ca),
            .certificate_label = "--cert",
            .key_label = "--key",
            .ca_label = "--ca"};
  }
  TlsFiles Client() { return Client(ca_.Issue({.name = "host-b", .alt_names = "", .usage = "clientAuth"})); }

  const FakeCa& ca() const { return ca_; }
  ListenConfig& config() { return config_; }
  const TempDir& dir() const { return dir_; }
  FakeService& service() { return service_; }  // on the control thread only
  std::string url() const { return absl::StrCat("https://", config_.address); }
  // A message without the folder's name, which is another each time.
  std::string Plain(std::string text) const {
    const std::string folder = dir_.path() + "/";
    for (size_t at; (at = text.find(folder)) != std::string::npos;) text.erase(at, folder.size());
    for (size_t at; (at = text.find(config_.address)) != std::string::npos;)
      text.replace(at, config_.address.size(), "HOST");
    for (size_t at; (at = text.find(config_.ip)) != std::string::npos;) text.replace(at, config_.ip.size(), "IP");
    return text;
  }

 private:
  TempDir dir_;
  FakeCa ca_;
  ListenConfig config_;
  int clients_ = 0;
  boost::asio::io_context io_;
  boost::asio::executor_work_guard<boost::asio::io_context::executor_type> work_{io_.get_executor()};
  FakeService service_;
  std::vector<std::string> told_;
  std::unique_ptr<TlsListener> listener_;
  std::thread thread_;
};

}  // namespace everport::fakes
