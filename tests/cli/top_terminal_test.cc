// `everportctl top` on a terminal of its own: what it draws, and that it gives the terminal back as it was.
#include <gtest/gtest.h>
#include <poll.h>
#include <pty.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>
#include <utmp.h>

#include <chrono>
#include <string>

#include "backend/base/unique_fd.h"
#include "tests/cli/fake_daemon.h"
#include "tests/fakes/temp_dir.h"

namespace everport::cli {
namespace {

constexpr char kEnter[] = "\x1b[?1049h", kLeave[] = "\x1b[?1049l";

class TopTerminalTest : public testing::Test {
 protected:
  TopTerminalTest() {
    int terminal = -1, other = -1;
    winsize size{};
    size.ws_row = 24;
    size.ws_col = 120;
    EXPECT_EQ(::openpty(&terminal, &other, nullptr, nullptr, &size), 0);
    terminal_ = UniqueFd(terminal);
    other_ = UniqueFd(other);  // kept open, so that the terminal outlives the program
    ::tcgetattr(other, &before_);
  }
  void Start() {
    pid_ = ::fork();
    ASSERT_GE(pid_, 0);
    if (pid_ == 0) {
      if (::login_tty(other_.get()) == 0) {
        ::execl(EVERPORTCTL, "everportctl", "--api", socket_.c_str(), "top", "--interval", "0.05", nullptr);
      }
      ::_exit(127);
    }
  }
  bool UntilShown(const std::string& text) {
    const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(10);
    while (shown_.find(text) == std::string::npos) {
      pollfd wait{terminal_.get(), POLLIN, 0};
      if (std::chrono::steady_clock::now() > end) return false;
      if (::poll(&wait, 1, 100) <= 0) continue;
      char buffer[4096];
      const ssize_t got = ::read(terminal_.get(), buffer, sizeof buffer);
      if (got <= 0) return false;
      shown_.append(buffer, static_cast<size_t>(got));
    }
    return true;
  }
  void Type(char key) { ASSERT_EQ(::write(terminal_.get(), &key, 1), 1); }
  void ExpectGivenBack() {
    EXPECT_TRUE(UntilShown(kLeave)) << shown_;
    int status = -1;
    ASSERT_EQ(::waitpid(pid_, &status, 0), pid_);
    EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0) << status;
    termios after{};
    ASSERT_EQ(::tcgetattr(other_.get(), &after), 0);
    EXPECT_EQ(after.c_lflag, before_.c_lflag);
  }

  fakes::TempDir dir_;
  const std::string socket_ = dir_ / "api.sock";
  fakes::FakeDaemon daemon_{socket_};
  UniqueFd terminal_, other_;
  termios before_{};
  pid_t pid_ = -1;
  std::string shown_;
};

TEST_F(TopTerminalTest, ShowsRatesAnewUntilQ) {
  Start();
  EXPECT_TRUE(UntilShown(kEnter));
  EXPECT_TRUE(UntilShown("vm1-net0  running  1 tap:ep-vm1  0 pps")) << shown_;
  daemon_.Do([&] { daemon_.service().ports[0].rx_packets += 1'000'000'000; });
  EXPECT_TRUE(UntilShown(" Gpps")) << shown_;
  Type('q');
  ExpectGivenBack();
}

TEST_F(TopTerminalTest, EndsOnCtrlC) {
  Start();
  EXPECT_TRUE(UntilShown("q quits"));
  Type('\x03');
  ExpectGivenBack();
}

}  // namespace
}  // namespace everport::cli
