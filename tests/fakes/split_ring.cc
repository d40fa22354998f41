#include "tests/fakes/split_ring.h"

#include <atomic>

namespace everport::fakes {
namespace {
constexpr uint16_t kNoInterrupt = 1, kNoNotify = 1;

uint16_t LoadAcquire(const uint16_t* p) {
  return __atomic_load_n(p, __ATOMIC_ACQUIRE);
}
// virtio 1.2, 2.7.10: has the index moved past the event?
bool NeedEvent(uint16_t event, uint16_t now, uint16_t before) {
  return static_cast<uint16_t>(now - event - 1) < static_cast<uint16_t>(now - before);
}
}  // namespace

SplitRing::SplitRing(const RingOptions& options, GuestMemory& memory)
    : DriverRing(options, memory),
      desc_block_(memory.Allocate(size_t{16} * options.size)),
      avail_block_(memory.Allocate(size_t{6} + 2u * options.size)),
      used_block_(memory.Allocate(size_t{6} + 8u * options.size)),
      next_(options.size) {
  for (uint16_t i = 0; i < options.size; ++i) free_descs_.push_back(i);
  free_ids_.clear();  // a split chain's id is its head descriptor
}

bool SplitRing::Add(std::span<const Segment> chain, uint16_t cookie, bool indirect) {
  const uint16_t slots = indirect ? 1 : static_cast<uint16_t>(chain.size());
  if (free_ < slots) return false;
  const uint16_t head = free_descs_.front();
  if (indirect) {
    free_descs_.pop_front();
    const size_t offset = size_t{16} * options_.max_indirect * head;
    auto* table = reinterpret_cast<SplitDesc*>(indirect_.host + offset);
    for (size_t i = 0; i < chain.size(); ++i) {
      const bool last = i + 1 == chain.size();
      table[i] = {chain[i].gpa, chain[i].len,
                  static_cast<uint16_t>((chain[i].writable ? kDescWrite : 0) | (last ? 0 : kDescNext)),
                  static_cast<uint16_t>(last ? 0 : i + 1)};
    }
    descs()[head] = {indirect_.gpa + offset, static_cast<uint32_t>(16 * chain.size()), kDescIndirect, 0};
    next_[head] = head;
  } else {
    for (size_t i = 0; i < chain.size(); ++i) {
      const bool last = i + 1 == chain.size();
      const uint16_t slot = free_descs_.front();
      free_descs_.pop_front();
      const uint16_t next = last ? slot : free_descs_.front();
      descs()[slot] = {chain[i].gpa, chain[i].len,
                       static_cast<uint16_t>((chain[i].writable ? kDescWrite : 0) | (last ? 0 : kDescNext)),
                       static_cast<uint16_t>(last ? 0 : next)};
      next_[slot] = next;  // the last one points to itself
    }
  }
  avail()[2 + next_avail_ % options_.size] = head;
  ++next_avail_;
  MadeAvailable(head, cookie, slots);
  return true;
}

bool SplitRing::Publish() {
  const uint16_t before = published_;
  if (before == next_avail_) return false;
  published_ = next_avail_;
  __atomic_store_n(&avail()[1], published_, __ATOMIC_RELEASE);
  std::atomic_thread_fence(std::memory_order_seq_cst);  // 2.7.13.4.1: idx before the look at the suppression field
  if (options_.event_idx) return NeedEvent(LoadAcquire(&used()[2 + 4 * options_.size]), published_, before);
  return (LoadAcquire(&used()[0]) & kNoNotify) == 0;
}

bool SplitRing::PopUsed(UsedBuffer* out) {
  if (ready_.empty()) {
    if (LoadAcquire(&used()[1]) == last_used_) return false;
    const uint32_t* elem = reinterpret_cast<const uint32_t*>(used() + 2) + 2 * (last_used_ % options_.size);
    const size_t before = ready_.size();
    Returned(elem[0], elem[1]);
    // An in-order device that skipped entries moved used->idx on by as many chains (2.7.9).
    const size_t chains = ready_.size() - before;
    last_used_ = static_cast<uint16_t>(last_used_ + (chains == 0 ? 1 : chains));
    if (chains == 0) return PopUsed(out);
  }
  *out = ready_.front();
  ready_.pop_front();
  return true;
}

void SplitRing::Release(uint16_t id) {
  // In-order drivers take descriptors in ring order (2.7.7.1); others as Linux does, the last freed first.
  for (uint16_t slot = id;; slot = next_[slot]) {
    if (options_.in_order) {
      free_descs_.push_back(slot);
    } else {
      free_descs_.push_front(slot);
    }
    if (next_[slot] == slot) break;
  }
}

void SplitRing::WantCalls(bool want) {
  if (options_.event_idx) {
    const uint16_t event = want ? last_used_ : static_cast<uint16_t>(last_used_ - 1);
    __atomic_store_n(&avail()[2 + options_.size], event, __ATOMIC_RELEASE);
  } else {
    __atomic_store_n(&avail()[0], static_cast<uint16_t>(want ? 0 : kNoInterrupt), __ATOMIC_RELEASE);
  }
  std::atomic_thread_fence(std::memory_order_seq_cst);
}

void SplitRing::RawAvail(uint16_t head) {
  avail()[2 + next_avail_ % options_.size] = head;
  RawAvailIndex(static_cast<uint16_t>(next_avail_ + 1));
  ++next_avail_;
  published_ = next_avail_;
}

void SplitRing::RawAvailIndex(uint16_t index) {
  __atomic_store_n(&avail()[1], index, __ATOMIC_RELEASE);
}
uint16_t SplitRing::used_index() const {
  return LoadAcquire(&used()[1]);
}

}  // namespace everport::fakes
