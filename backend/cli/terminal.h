#pragma once

#include <termios.h>

namespace everport::cli {

// The alternate screen, with keys coming one by one and unechoed, from construction to destruction. SIGINT and SIGTERM
// end the wait instead of the process meanwhile, so that the terminal is given back as it was. One at a time.
class Screen {
 public:
  Screen();
  ~Screen();
  Screen(const Screen&) = delete;
  Screen& operator=(const Screen&) = delete;

  // Waits for this many seconds; false at once when q was typed or a signal came. The size may have changed meanwhile.
  bool Wait(double seconds);
  int rows() const;

 private:
  termios before_{};
  bool raw_ = false;
};

}  // namespace everport::cli
