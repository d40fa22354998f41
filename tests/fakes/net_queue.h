#pragma once

// A guest's virtio-net driver, one direction of one queue pair: buffers, the virtio-net header, and what came of them.

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "tests/fakes/driver_ring.h"

namespace everport::fakes {

// virtio 1.2, 5.1.6: with VERSION_1 the header is always of 12 bytes.
struct NetHeader {
  uint8_t flags = 0;     // 1: NEEDS_CSUM, 2: DATA_VALID
  uint8_t gso_type = 0;  // 0 none, 1 TCPv4, 4 TCPv6
  uint16_t hdr_len = 0;
  uint16_t gso_size = 0;
  uint16_t csum_start = 0;
  uint16_t csum_offset = 0;
  uint16_t num_buffers = 0;
};
static_assert(sizeof(NetHeader) == 12);

// How a frame is laid out in descriptors.
struct ChainShape {
  // Bytes per descriptor, the header's 12 first; the last descriptor takes what is left. Empty: one descriptor for all.
  std::vector<uint32_t> cuts = {};
  bool indirect = false;
};

class TxQueue {
 public:
  // slot_bytes: the longest frame. There are as many slots as ring descriptors.
  TxQueue(std::unique_ptr<DriverRing> ring, GuestMemory& memory, uint32_t slot_bytes);

  // Queues one frame; false if no slot or descriptor is free. The device sees it at the latest after Kick.
  bool Send(std::span<const uint8_t> frame, const ChainShape& shape = {}, const NetHeader& header = {});
  // Takes back what the device has used; gives the number of frames.
  unsigned PollUsed();
  // Publishes, and says whether the device wants to be kicked.
  bool Publish() { return ring_->Publish(); }

  DriverRing& ring() { return *ring_; }
  const DriverRing& ring() const { return *ring_; }

 private:
  std::unique_ptr<DriverRing> ring_;
  uint32_t stride_;
  GuestMemory::Block slots_;
  std::vector<uint16_t> free_slots_;
};

class RxQueue {
 public:
  using OnFrame = std::function<void(std::span<const uint8_t> frame, const NetHeader& header)>;

  // buffer_bytes: of one buffer, header included. mergeable: a frame may come in several buffers.
  // split_header: each buffer is a chain of two descriptors, 12 bytes and the rest.
  RxQueue(std::unique_ptr<DriverRing> ring, GuestMemory& memory, uint32_t buffer_bytes, bool mergeable,
          bool split_header, bool indirect);

  // Makes at most `most` buffers available; gives how many.
  unsigned AddBuffers(unsigned most = 65535);
  bool Publish() { return ring_->Publish(); }
  // Hands every frame that has come to on_frame; gives the number of frames.
  unsigned Poll(const OnFrame& on_frame);

  // Frames whose lengths or num_buffers make no sense.
  uint64_t malformed() const { return malformed_; }
  DriverRing& ring() { return *ring_; }
  const DriverRing& ring() const { return *ring_; }

 private:
  uint8_t* Slot(uint16_t cookie) { return slots_.host + size_t{cookie} * stride_; }

  std::unique_ptr<DriverRing> ring_;
  uint32_t buffer_bytes_, stride_;
  bool mergeable_, split_header_, indirect_;
  GuestMemory::Block slots_;
  std::vector<uint16_t> free_slots_;
  std::vector<uint8_t> scratch_;  // a frame gathered from several buffers
  NetHeader header_;              // of the frame being gathered
  unsigned buffers_missing_ = 0;
  uint64_t malformed_ = 0;
};

}  // namespace everport::fakes
