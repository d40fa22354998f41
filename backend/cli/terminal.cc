#include "backend/cli/terminal.h"

#include <poll.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstdio>

namespace everport::cli {
namespace {

volatile std::sig_atomic_t stopped = 0;
void Stop(int) {
  stopped = 1;
}

void Write(const char* text) {
  std::fputs(text, stdout);
  std::fflush(stdout);
}

}  // namespace

Screen::Screen() {
  stopped = 0;
  struct sigaction action {};
  action.sa_handler = Stop;  // without SA_RESTART: poll returns
  ::sigaction(SIGINT, &action, nullptr);
  ::sigaction(SIGTERM, &action, nullptr);
  ::sigaction(SIGHUP, &action, nullptr);
  if (::tcgetattr(STDIN_FILENO, &before_) == 0) {
    termios raw = before_;
    raw.c_lflag &= ~static_cast<tcflag_t>(ICANON | ECHO);
    raw_ = ::tcsetattr(STDIN_FILENO, TCSANOW, &raw) == 0;
  }
  Write("\x1b[?1049h\x1b[?25l");
}

Screen::~Screen() {
  Write("\x1b[?25h\x1b[?1049l");
  if (raw_) ::tcsetattr(STDIN_FILENO, TCSANOW, &before_);
  for (const int number : {SIGINT, SIGTERM, SIGHUP}) std::signal(number, SIG_DFL);
}

bool Screen::Wait(double seconds) {
  const auto end = std::chrono::steady_clock::now() + std::chrono::duration<double>(seconds);
  while (!stopped) {
    const double left = std::chrono::duration<double>(end - std::chrono::steady_clock::now()).count();
    if (left <= 0) return true;
    pollfd key{raw_ ? STDIN_FILENO : -1, POLLIN, 0};
    const int ready = ::poll(&key, 1, static_cast<int>(left * 1000) + 1);
    if (ready < 0 && errno != EINTR) return false;
    if (ready <= 0) continue;
    char typed = 'q';
    if (::read(STDIN_FILENO, &typed, 1) <= 0 || typed == 'q' || typed == 'Q') return false;
  }
  return false;
}

int Screen::rows() const {
  winsize size{};
  return ::ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_row > 0 ? size.ws_row : 24;
}

}  // namespace everport::cli
