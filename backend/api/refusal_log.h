#pragma once

#include <chrono>
#include <cstdint>
#include <string>

#include "backend/base/log.h"

namespace everport {

// Lines about connections that were refused, so many a minute at most: anyone on the network can cause them.
class RefusalLog {
 public:
  static constexpr unsigned kLines = 10;
  static constexpr std::chrono::seconds kWindow{60};

  // How many of the window before were left out is said first. True: it was logged.
  bool Note(const std::string& text, std::chrono::steady_clock::time_point now) {
    if (lines_ == 0 || now - begin_ >= kWindow) {
      if (left_out_ > 0) {
        spdlog::warn("api: {} more connections were refused; everport_api_tcp_refused_total tells why", left_out_);
      }
      begin_ = now;
      lines_ = 0;
      left_out_ = 0;
    }
    if (lines_ >= kLines) {
      ++left_out_;
      return false;
    }
    ++lines_;
    spdlog::warn("api: {}", text);
    return true;
  }

 private:
  std::chrono::steady_clock::time_point begin_;
  unsigned lines_ = 0;
  uint64_t left_out_ = 0;
};

}  // namespace everport
