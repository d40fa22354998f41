#pragma once

// The network's side of an uplink.

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>

#include "absl/status/statusor.h"
#include "backend/base/unique_fd.h"
#include "tests/fakes/test_frame.h"

namespace everport::fakes {

class FarEnd {
 public:
  using OnFrame = std::function<void(std::span<const uint8_t>)>;
  virtual ~FarEnd() = default;
  // Hands over all frames that have come.
  virtual void Poll(const OnFrame& on_frame) = 0;
  // False: not now.
  virtual bool Send(std::span<const uint8_t> frame) = 0;
};

// A network interface: frames of one Ethernet type that come in, test frames (test_frame.h) unless another is asked
// for, whomever they are for. An interface that goes down and comes up again is heard again; one that is made anew must
// be opened anew.
class PacketFarEnd : public FarEnd {
 public:
  static absl::StatusOr<std::unique_ptr<PacketFarEnd>> Open(const std::string& interface,
                                                            uint16_t type = kTestFrameType);
  void Poll(const OnFrame& on_frame) override;
  bool Send(std::span<const uint8_t> frame) override;

 private:
  explicit PacketFarEnd(UniqueFd fd) : fd_(std::move(fd)) {}
  UniqueFd fd_;
};

}  // namespace everport::fakes
