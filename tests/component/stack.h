#pragma once

// The programs themselves, keeper and daemon, on a configuration of the test's in a folder of its own, as an operator
// would start them, with ordinary memory. Sockets of front-ends lie in the same folder.

#include <boost/json/value.hpp>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "tests/fakes/process.h"
#include "tests/fakes/temp_dir.h"

namespace everport::component {

struct StackOptions {
  bool keeper = true;
  unsigned max_sleep_us = 250;
  int poller_cpu = -1;                               // -1: "auto"
  std::string tables = {};                           // of the configuration, besides [daemon] and the ports
  std::string listen = {};                           // of [daemon.listen]; empty: no such table
  std::vector<std::string> daemon_environment = {};  // "NAME=value", added to ours
};

struct TestPort {
  std::string name;
  std::string uplink_kind = "port";
  std::string uplink_device;
  unsigned queue_pairs = 1;
  unsigned mtu = 1500;
  std::string mac = {};                                                // empty: the daemon makes one
  int failback_delay_ms = -1;                                          // -1: the default
  std::vector<std::pair<std::string, std::string>> more_uplinks = {};  // kind, device; less preferred
  std::string bridge = {};                                             // of the first uplink; empty: none
  std::string contract = {};                                           // empty: the default
};

class Stack {
 public:
  explicit Stack(StackOptions options = {}) : options_(options) {}
  ~Stack();  // kills both; with a sanitizer they end as an operator ends them, so that their leaks are looked for

  // Changes the ports that the next WriteConfig writes down.
  void AddWire(const std::string& a, const std::string& b, unsigned queue_pairs = 1, unsigned mtu = 1500);
  void AddPort(TestPort port) { ports_.push_back(std::move(port)); }
  void RemovePort(const std::string& name);
  std::vector<TestPort>& ports() { return ports_; }

  std::string ConfigText() const;
  const std::string& WriteConfig();
  // Writes the configuration and starts both (the daemon alone without keeper); waits until they are ready.
  absl::Status Start();
  absl::Status StartKeeper();
  // wait: until it says it is ready.
  absl::Status StartDaemon(bool wait = true);
  void KillDaemon() { daemon_->Kill(); }

  StackOptions& options() { return options_; }
  fakes::Process& keeper() { return *keeper_; }
  fakes::Process& daemon() { return *daemon_; }
  const fakes::TempDir& dir() const { return dir_; }
  std::string Socket(const std::string& port) const { return dir_ / (port + ".sock"); }

  // GET on the daemon's API.
  absl::StatusOr<boost::json::value> Get(const std::string& target) const;
  // The same of what is no JSON document.
  absl::StatusOr<std::string> GetText(const std::string& target) const;
  // POST a JSON body; the answer's body is an error's message if it is refused.
  absl::Status Post(const std::string& target, const std::string& body) const;
  absl::Status Delete(const std::string& target) const;
  // One counter or word of GET /v1/ports/{name}; -1 when the API does not answer.
  int64_t PortNumber(const std::string& port, const std::string& key) const;
  std::string PortState(const std::string& port) const;
  // What both programs wrote, the last lines, for a failing test's message.
  std::string Logs() const;

 private:
  struct Answer {
    unsigned status;
    std::string body;
  };
  absl::StatusOr<Answer> Ask(const std::string& method, const std::string& target, const std::string& body) const;

  StackOptions options_;
  fakes::TempDir dir_;
  std::vector<TestPort> ports_;
  std::string config_path_;
  std::unique_ptr<fakes::Process> keeper_, daemon_;
};

// In a test with a `stack_`: the status, and what its programs said.
#define ASSERT_OK(expression)                                      \
  do {                                                             \
    const absl::Status status_ = (expression);                     \
    ASSERT_TRUE(status_.ok()) << status_ << "\n" << stack_.Logs(); \
  } while (false)

}  // namespace everport::component
