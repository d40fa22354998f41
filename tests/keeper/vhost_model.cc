#include "tests/keeper/vhost_model.h"

namespace everport {
namespace {
constexpr unsigned kBatch = 4;  // PACKED_BATCH_SIZE
constexpr uint16_t kNext = 1, kWrite = 2;
constexpr uint32_t kUsedLen = 77;
using fakes::kPackedAvail;
using fakes::kPackedUsed;
}  // namespace

PackedDevice::PackedDevice(fakes::PackedDesc* ring, uint16_t size, bool in_order, uint16_t position,
                           IndexPageVring* journal, Stores* stores)
    : ring_(ring),
      size_(size),
      in_order_(in_order),
      avail_{static_cast<uint16_t>(position & 0x7fff), (position & 0x8000) != 0},
      used_(avail_),
      journal_(journal),
      stores_(*stores) {}

void PackedDevice::Advance(Cursor& cursor, unsigned slots) const {
  unsigned next = cursor.index + slots;
  if (next >= size_) {
    next -= size_;
    cursor.wrap = !cursor.wrap;
  }
  cursor.index = static_cast<uint16_t>(next);
}

bool PackedDevice::Available(const Cursor& cursor) const {
  const uint16_t flags = __atomic_load_n(&ring_[cursor.index].flags, __ATOMIC_ACQUIRE);
  return ((flags & kPackedAvail) != 0) == cursor.wrap && ((flags & kPackedUsed) != 0) != cursor.wrap;
}

PackedDevice::Chain PackedDevice::Look(Cursor cursor) const {
  Chain chain;
  do {
    if (!Available(cursor)) return {};
    chain.id = ring_[cursor.index].id;
    ++chain.slots;
    if (!(ring_[cursor.index].flags & kNext)) return chain;
    Advance(cursor, 1);
  } while (chain.slots < size_);
  return {};
}

unsigned PackedDevice::WriteJournal(unsigned most) {
  Cursor cursor = avail_;
  unsigned n = 0;
  for (; n < most; ++n) {
    const Chain chain = Look(cursor);
    if (chain.slots == 0) break;
    const fakes::PackedDesc& head = ring_[cursor.index];
    IndexPageChain& entry = journal_->chains[n];
    stores_.Put(entry.head_len, head.len);
    stores_.Put(entry.head_id, head.id);
    stores_.Put(entry.slots, chain.slots);
    stores_.Put(entry.last_id, chain.id);
    stores_.Put(entry.head_flags, head.flags);
    Advance(cursor, chain.slots);
  }
  if (n > 0) stores_.Put(journal_->head, IndexPageHead(Position(avail_), static_cast<uint16_t>(n)));
  return n;
}

void PackedDevice::CloseJournal() {
  stores_.Put(journal_->head, IndexPageHead(Position(used_), 0));
}

uint16_t PackedDevice::UsedFlags(uint16_t also) const {
  return static_cast<uint16_t>(also | (used_.wrap ? kPackedAvail | kPackedUsed : 0));
}

// Four chains of one slot each, aligned, none beyond the ring's end.
bool PackedDevice::BatchReady(Chain* chains) const {
  if (avail_.index % kBatch != 0 || avail_.index + kBatch > size_) return false;
  Cursor cursor = avail_;
  for (unsigned i = 0; i < kBatch; ++i, Advance(cursor, 1)) {
    chains[i] = Look(cursor);
    if (chains[i].slots != 1) return false;
  }
  return true;
}

// vhost_flush_enqueue_batch_packed
void PackedDevice::EnqueueBatch(const Chain* chains) {
  const uint16_t base = used_.index;
  for (unsigned i = 0; i < kBatch; ++i) {
    stores_.Put(ring_[base + i].id, chains[i].id);
    stores_.Put(ring_[base + i].len, kUsedLen);
  }
  for (unsigned i = 0; i < kBatch; ++i) stores_.Put(ring_[base + i].flags, UsedFlags(kWrite));
  Advance(used_, kBatch);
}

// vhost_flush_enqueue_shadow_packed
void PackedDevice::FlushEnqueue() {
  if (shadow_.empty()) return;
  Cursor cursor = used_;
  for (const Shadow& s : shadow_) {
    stores_.Put(ring_[cursor.index].id, s.id);
    stores_.Put(ring_[cursor.index].len, s.len);
    Advance(cursor, s.slots);
  }
  const uint16_t head = used_.index;
  const uint16_t head_flags = UsedFlags(kWrite);
  for (size_t i = 0; i < shadow_.size(); ++i) {
    if (i > 0) stores_.Put(ring_[used_.index].flags, UsedFlags(kWrite));
    Advance(used_, shadow_[i].slots);
  }
  stores_.Put(ring_[head].flags, head_flags);
  shadow_.clear();
}

unsigned PackedDevice::Enqueue(std::vector<unsigned> buffers) {
  // The daemon gives librte_vhost no more frames than surely fit what has been noted.
  unsigned noted = WriteJournal(kIndexPageChains);
  if (noted == 0) return 0;
  for (size_t i = 0; i < buffers.size(); ++i) {
    if (buffers[i] > noted) buffers.resize(i);
    if (i < buffers.size()) noted -= buffers[i];
  }
  unsigned done = 0;
  while (done < buffers.size()) {
    Chain batch[kBatch];
    const bool singles = done + kBatch <= buffers.size() && buffers[done] == 1 && buffers[done + 1] == 1 &&
                         buffers[done + 2] == 1 && buffers[done + 3] == 1;
    if (singles && BatchReady(batch)) {
      FlushEnqueue();
      Advance(avail_, kBatch);
      EnqueueBatch(batch);
      done += kBatch;
      continue;
    }
    std::vector<Shadow> taken;
    Cursor cursor = avail_;
    for (unsigned i = 0; i < buffers[done]; ++i) {
      const Chain chain = Look(cursor);
      if (chain.slots == 0) break;
      taken.push_back({chain.id, kUsedLen, chain.slots});
      Advance(cursor, chain.slots);
    }
    if (taken.size() < buffers[done]) break;
    if (shadow_.empty()) shadow_aligned_ = used_.index & (kBatch - 1);
    for (const Shadow& s : taken) {
      shadow_aligned_ = static_cast<uint16_t>(shadow_aligned_ + s.slots);
      shadow_.push_back(s);
    }
    avail_ = cursor;
    if (shadow_aligned_ >= kBatch) FlushEnqueue();
    ++done;
  }
  FlushEnqueue();
  CloseJournal();
  return done;
}

// vhost_shadow_dequeue_batch_packed{,_inorder}
void PackedDevice::DequeueBatch(const Chain* chains) {
  unsigned begin = 0;
  if (!held_) {
    held_ = true;
    held_at_ = used_;
    held_id_ = chains[0].id;
    held_flags_ = UsedFlags(0);
    begin = 1;
  }
  if (in_order_) {
    held_id_ = chains[kBatch - 1].id;
  } else {
    for (unsigned i = begin; i < kBatch; ++i) {
      stores_.Put(ring_[used_.index + i].id, chains[i].id);
      stores_.Put(ring_[used_.index + i].len, uint32_t{0});
    }
    for (unsigned i = begin; i < kBatch; ++i) stores_.Put(ring_[used_.index + i].flags, UsedFlags(0));
  }
  Advance(used_, kBatch);
}

// vhost_shadow_dequeue_single_packed{,_inorder}
void PackedDevice::DequeueSingle(const Chain& chain) {
  const auto rest =
      static_cast<uint16_t>(ring_[used_.index].flags & static_cast<uint16_t>(~(kPackedAvail | kPackedUsed)));
  if (!held_) {
    held_ = true;
    held_at_ = used_;
    held_id_ = chain.id;
    held_flags_ = UsedFlags(rest);
  } else if (in_order_) {
    held_id_ = chain.id;
  } else {
    stores_.Put(ring_[used_.index].id, chain.id);
    stores_.Put(ring_[used_.index].len, uint32_t{0});
    stores_.Put(ring_[used_.index].flags, UsedFlags(rest));
  }
  Advance(used_, chain.slots);
}

// vhost_flush_dequeue_shadow_packed
void PackedDevice::FlushDequeue() {
  if (!held_) return;
  stores_.Put(ring_[held_at_.index].id, held_id_);
  stores_.Put(ring_[held_at_.index].flags, held_flags_);
  held_ = false;
}

std::vector<uint16_t> PackedDevice::Dequeue(unsigned count) {
  std::vector<uint16_t> ids;
  count = WriteJournal(count);
  while (ids.size() < count) {
    Chain batch[kBatch];
    if (count - ids.size() >= kBatch && BatchReady(batch)) {
      DequeueBatch(batch);
      Advance(avail_, kBatch);
      for (const Chain& chain : batch) ids.push_back(chain.id);
      continue;
    }
    const Chain chain = Look(avail_);
    if (chain.slots == 0) break;
    DequeueSingle(chain);
    Advance(avail_, chain.slots);
    ids.push_back(chain.id);
  }
  FlushDequeue();
  if (count > 0) CloseJournal();
  return ids;
}

}  // namespace everport
