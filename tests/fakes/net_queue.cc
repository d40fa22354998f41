#include "tests/fakes/net_queue.h"

#include <algorithm>
#include <array>
#include <cstring>

namespace everport::fakes {
namespace {
constexpr uint32_t kHeader = sizeof(NetHeader);
constexpr unsigned kMostCuts = 32;
constexpr uint32_t kGap = 16;  // between the descriptors of a frame, so that running on into the next one shows
constexpr uint8_t kGapByte = 0xee;

std::vector<uint16_t> AllSlots(uint16_t count) {
  std::vector<uint16_t> slots(count);
  for (uint16_t i = 0; i < count; ++i) slots[i] = static_cast<uint16_t>(count - 1 - i);
  return slots;
}
uint32_t Stride(uint32_t bytes) {
  return (bytes + 63) & ~63u;
}
}  // namespace

TxQueue::TxQueue(std::unique_ptr<DriverRing> ring, GuestMemory& memory, uint32_t slot_bytes)
    : ring_(std::move(ring)),
      stride_(Stride(kHeader + slot_bytes + kMostCuts * kGap)),
      slots_(memory.Allocate(size_t{stride_} * ring_->size())),
      free_slots_(AllSlots(ring_->size())) {}

bool TxQueue::Send(std::span<const uint8_t> frame, const ChainShape& shape, const NetHeader& header) {
  if (free_slots_.empty()) return false;
  const uint16_t slot = free_slots_.back();
  uint8_t* at = slots_.host + size_t{slot} * stride_;
  uint64_t gpa = slots_.gpa + size_t{slot} * stride_;
  std::array<Segment, kMostCuts> segments;
  const size_t total = kHeader + frame.size();
  size_t done = 0, count = 0;
  while (done < total) {
    size_t len = total - done;
    if (count < shape.cuts.size()) len = std::min<size_t>(len, shape.cuts[count]);
    segments[count++] = {gpa, static_cast<uint32_t>(len), false};
    for (size_t copied = 0; copied < len;) {  // header bytes, then frame bytes
      const size_t from = done + copied;
      const bool in_header = from < kHeader;
      const size_t n = in_header ? std::min<size_t>(len - copied, kHeader - from) : len - copied;
      const uint8_t* source =
          in_header ? reinterpret_cast<const uint8_t*>(&header) + from : frame.data() + (from - kHeader);
      std::memcpy(at + copied, source, n);
      copied += n;
    }
    if (count < shape.cuts.size() + 1 && done + len < total) std::memset(at + len, kGapByte, kGap);
    at += len + kGap;
    gpa += len + kGap;
    done += len;
  }
  if (!ring_->Add({segments.data(), count}, slot, shape.indirect)) return false;
  free_slots_.pop_back();
  return true;
}

unsigned TxQueue::PollUsed() {
  unsigned frames = 0;
  UsedBuffer used;
  for (; ring_->PopUsed(&used); ++frames) free_slots_.push_back(used.cookie);
  return frames;
}

RxQueue::RxQueue(std::unique_ptr<DriverRing> ring, GuestMemory& memory, uint32_t buffer_bytes, bool mergeable,
                 bool split_header, bool indirect)
    : ring_(std::move(ring)),
      buffer_bytes_(buffer_bytes),
      stride_(Stride(buffer_bytes)),
      mergeable_(mergeable),
      split_header_(split_header),
      indirect_(indirect),
      slots_(memory.Allocate(size_t{stride_} * ring_->size())),
      free_slots_(AllSlots(ring_->size())) {}

unsigned RxQueue::AddBuffers(unsigned most) {
  unsigned added = 0;
  for (; added < most && !free_slots_.empty(); ++added) {
    const uint16_t slot = free_slots_.back();
    const uint64_t gpa = slots_.gpa + size_t{slot} * stride_;
    const std::array<Segment, 2> two{Segment{gpa, kHeader, true},
                                     Segment{gpa + kHeader, buffer_bytes_ - kHeader, true}};
    const Segment one{gpa, buffer_bytes_, true};
    const std::span<const Segment> chain = split_header_ ? std::span<const Segment>(two) : std::span(&one, 1);
    std::memset(Slot(slot), 0xdb, kHeader);
    if (!ring_->Add(chain, slot, indirect_)) break;
    free_slots_.pop_back();
  }
  return added;
}

unsigned RxQueue::Poll(const OnFrame& on_frame) {
  unsigned frames = 0;
  UsedBuffer used;
  while (ring_->PopUsed(&used)) {
    free_slots_.push_back(used.cookie);
    const uint8_t* data = Slot(used.cookie);
    const bool first = buffers_missing_ == 0;
    if (used.len > buffer_bytes_ || (first && used.len < kHeader)) {
      ++malformed_;
      buffers_missing_ = 0;
      continue;
    }
    if (first) {
      std::memcpy(&header_, data, kHeader);
      // 5.1.6.4.1 wants 1 without MRG_RXBUF, too; librte_vhost leaves the field as it was, and drivers do not look.
      if (!mergeable_) header_.num_buffers = 1;
      if (header_.num_buffers == 0 || header_.num_buffers > ring_->size()) {
        ++malformed_;
        continue;
      }
      if (header_.num_buffers == 1) {  // the common case, without a copy
        on_frame({data + kHeader, used.len - kHeader}, header_);
        ++frames;
        continue;
      }
      buffers_missing_ = header_.num_buffers;
      scratch_.clear();
    }
    scratch_.insert(scratch_.end(), data + (first ? kHeader : 0), data + used.len);
    if (--buffers_missing_ > 0) continue;
    on_frame(scratch_, header_);
    ++frames;
  }
  return frames;
}

}  // namespace everport::fakes
