#pragma once

#include "tests/fakes/far_end.h"
#include "tests/fakes/front_end.h"

namespace everport::component {

// The guest at the other end of a wire.
class GuestFarEnd : public fakes::FarEnd {
 public:
  explicit GuestFarEnd(fakes::FrontEnd& guest) : guest_(guest) {}
  void Poll(const OnFrame& on_frame) override {
    guest_.rx(0).Poll([&](std::span<const uint8_t> frame, const fakes::NetHeader&) { on_frame(frame); });
    guest_.rx(0).AddBuffers();
    guest_.FlushRx(0);
    guest_.tx(0).PollUsed();
  }
  bool Send(std::span<const uint8_t> frame) override {
    const bool sent = guest_.tx(0).Send(frame);
    guest_.FlushTx(0);
    return sent;
  }

 private:
  fakes::FrontEnd& guest_;
};

}  // namespace everport::component
