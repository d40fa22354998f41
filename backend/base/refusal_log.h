#pragma once

#include <chrono>
#include <cstdint>
#include <string>
#include <utility>

#include "backend/base/log.h"

namespace everport {

// Lines about what was refused, so many a minute at most: a peer that is not trusted can cause them without end.
class RefusalLog {
 public:
  static constexpr unsigned kLines = 10;
  static constexpr std::chrono::seconds kWindow{60};

  // object: what each line begins with; more: what those are that were left out, "more connections were refused".
  RefusalLog(std::string object, std::string more) : object_(std::move(object)), more_(std::move(more)) {}

  // How many of the window before were left out is said first. True: it was logged.
  bool Note(const std::string& text, std::chrono::steady_clock::time_point now) {
    if (lines_ == 0 || now - begin_ >= kWindow) {
      if (left_out_ > 0) spdlog::warn("{}: {} {}", object_, left_out_, more_);
      begin_ = now;
      lines_ = 0;
      left_out_ = 0;
    }
    if (lines_ >= kLines) {
      ++left_out_;
      return false;
    }
    ++lines_;
    spdlog::warn("{}: {}", object_, text);
    return true;
  }

 private:
  const std::string object_, more_;
  std::chrono::steady_clock::time_point begin_;
  unsigned lines_ = 0;
  uint64_t left_out_ = 0;
};

}  // namespace everport
