// A guest's driver and librte_vhost's stores, one of which is the last: whatever it was, after recovery every buffer
// comes back exactly once.

#include "backend/keeper/ring_recovery.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <map>
#include <memory>
#include <random>
#include <set>
#include <string>

#include "tests/fakes/packed_ring.h"
#include "tests/fakes/split_ring.h"
#include "tests/keeper/vhost_model.h"

namespace everport {
namespace {

using fakes::DriverRing;
using fakes::GuestMemory;
using fakes::PackedDesc;
using fakes::PackedRing;
using fakes::RingOptions;
using fakes::Segment;
using fakes::SplitRing;
using fakes::UsedBuffer;

struct Shape {
  bool transmit;  // the guest's direction
  bool in_order;
  unsigned max_slots;  // of a chain
  uint16_t ring_size;
};

// One guest ring, one device at a time, and a journal that outlives devices.
class PackedWorld {
 public:
  PackedWorld(const Shape& shape, unsigned seed)
      : shape_(shape),
        random_(seed),
        memory_(1, size_t{1} << 20),
        ring_({.size = shape.ring_size, .packed = true, .in_order = shape.in_order, .max_indirect = 1}, memory_),
        journal_(std::make_unique<IndexPageVring>()) {
    stores_.between = [this] {
      if (Chance(4)) GuestStep();
    };
    position_ = 0x8000;
  }

  unsigned Random(unsigned below) { return std::uniform_int_distribution<unsigned>(0, below - 1)(random_); }
  bool Chance(unsigned one_in) { return Random(one_in) == 0; }

  // The guest takes back what has come and, as long as it is running, makes new buffers available.
  void GuestStep() {
    for (UsedBuffer used; ring_.PopUsed(&used);) {
    }
    if (!refill_) return;
    for (unsigned n = Random(4); n > 0; --n) {
      const std::vector<Segment> chain(1 + Random(shape_.max_slots), Segment{0x1000, 256, !shape_.transmit});
      if (!ring_.Add(chain, 0, false)) break;
    }
  }

  // A daemon runs from position_ until its kill_after-th store, or for `bursts` bursts.
  void RunDevice(uint64_t kill_after, unsigned bursts) {
    stores_.kill_after = kill_after == UINT64_MAX ? UINT64_MAX : stores_.count() + kill_after;
    PackedDevice device(ring_.descs(), shape_.ring_size, shape_.in_order, position_, journal_.get(), &stores_);
    try {
      for (unsigned i = 0; i < bursts; ++i) Burst(device);
      position_ = device.used_position();
    } catch (const Killed&) {
      killed_ = true;
    }
    last_avail_ = device.avail_position();
  }

  // What the keeper does when the next daemon comes.
  void Recover() {
    const uint64_t head = journal_->head.load();
    if (!IndexPageHeadValid(head)) return;  // the base that was told holds
    const auto recovery =
        RecoverPacked({journal_->chains, IndexPageHeadChains(head)}, IndexPageHeadPosition(head), shape_.ring_size,
                      shape_.in_order && shape_.transmit, [this](uint16_t slot) -> absl::StatusOr<PackedTail> {
                        PackedTail tail;
                        std::memcpy(&tail, &ring_.descs()[slot].len, sizeof tail);
                        return tail;
                      });
    ASSERT_TRUE(recovery.ok()) << recovery.status();
    for (const PackedRepair& repair : recovery->repairs)
      std::memcpy(&ring_.descs()[repair.slot].len, &repair.tail, sizeof repair.tail);
    position_ = recovery->position;
    journal_->head.store(IndexPageHead(position_, 0));
  }

  // No new buffers; a device that is not killed works until nothing is left.
  void Drain() {
    refill_ = false;
    for (unsigned i = 0; i < 3u * shape_.ring_size && ring_.account().outstanding() > 0; ++i) {
      PackedDevice device(ring_.descs(), shape_.ring_size, shape_.in_order, position_, journal_.get(), &stores_);
      stores_.kill_after = UINT64_MAX;
      if (shape_.transmit) device.Dequeue(32);
      if (!shape_.transmit) device.Enqueue({1});
      position_ = device.used_position();
      GuestStep();
    }
  }

  std::string Fault() const {
    const auto& a = ring_.account();
    if (a.unknown) return std::to_string(a.unknown) + " used twice";
    if (a.misordered) return std::to_string(a.misordered) + " out of order";
    if (a.outstanding()) return std::to_string(a.outstanding()) + " of " + std::to_string(a.available) + " lost";
    return {};
  }

  void set_position(uint16_t position) { position_ = position; }
  uint16_t last_avail() const { return last_avail_; }
  bool killed() const { return killed_; }
  uint64_t moved() const { return ring_.account().returned; }
  IndexPageVring& journal() { return *journal_; }

 private:
  void Burst(PackedDevice& device) {
    GuestStep();
    if (shape_.transmit) {
      device.Dequeue(1 + Random(32));
      return;
    }
    std::vector<unsigned> buffers(1 + Random(12), 1);
    if (Chance(2))
      for (unsigned& b : buffers) b = Chance(4) ? 2 + Random(3) : 1;
    device.Enqueue(buffers);
  }

  const Shape shape_;
  std::mt19937 random_;
  GuestMemory memory_;
  PackedRing ring_;
  std::unique_ptr<IndexPageVring> journal_;
  Stores stores_;
  uint16_t position_ = 0, last_avail_ = 0;
  bool refill_ = true, killed_ = false;
};

class PackedRecoveryTest : public testing::TestWithParam<Shape> {};

TEST_P(PackedRecoveryTest, KilledAfterAnyStoreEveryBufferComesBackOnce) {
  uint64_t moved = 0;
  for (unsigned seed = 0; seed < 400; ++seed) {
    PackedWorld world(GetParam(), seed);
    for (unsigned life = 0; life < 6; ++life) {
      world.RunDevice(1 + world.Random(600), 40);
      for (unsigned n = world.Random(4); n > 0; --n) world.GuestStep();  // the guest runs on without a device
      world.Recover();
    }
    world.Drain();
    ASSERT_EQ(world.Fault(), "") << "seed " << seed;
    moved += world.moved();
  }
  EXPECT_GT(moved, 10'000u);
}

// The same short history, killed after its 1st, 2nd, 3rd … store.
TEST_P(PackedRecoveryTest, KilledAfterEachStoreOfAHistory) {
  for (uint64_t kill = 1; kill < 1'500; ++kill) {
    PackedWorld world(GetParam(), 7);
    world.RunDevice(kill, 60);
    if (!world.killed()) break;
    world.GuestStep();
    world.Recover();
    world.Drain();
    ASSERT_EQ(world.Fault(), "") << "killed after store " << kill;
  }
}

// Recovering twice, as when the next daemon dies during its replay, changes nothing.
TEST_P(PackedRecoveryTest, RecoveryIsIdempotent) {
  for (unsigned seed = 0; seed < 100; ++seed) {
    PackedWorld world(GetParam(), seed);
    world.RunDevice(1 + world.Random(300), 40);
    world.Recover();
    world.GuestStep();
    world.Recover();
    world.Drain();
    ASSERT_EQ(world.Fault(), "") << "seed " << seed;
  }
}

// Why there is an index page at all.
TEST_P(PackedRecoveryTest, ABaseFromAvailLosesBuffers) {
  unsigned faults = 0;
  for (unsigned seed = 0; seed < 300; ++seed) {
    PackedWorld world(GetParam(), seed);
    world.RunDevice(50 + world.Random(2'000), 500);
    world.set_position(world.last_avail());
    world.Drain();
    faults += world.Fault().empty() ? 0 : 1;
  }
  EXPECT_GT(faults, 0u);
}

INSTANTIATE_TEST_SUITE_P(Shapes, PackedRecoveryTest,
                         testing::Values(Shape{false, false, 1, 16}, Shape{false, false, 4, 32},
                                         Shape{false, true, 1, 32}, Shape{false, true, 3, 13},
                                         Shape{true, false, 1, 16}, Shape{true, false, 4, 32},
                                         Shape{true, false, 4, 21}, Shape{true, true, 1, 16}, Shape{true, true, 4, 32},
                                         Shape{false, false, 1, 256}, Shape{true, false, 4, 256}),
                         [](const auto& param) {
                           const Shape& s = param.param;
                           return std::string(s.transmit ? "Tx" : "Rx") + (s.in_order ? "InOrder" : "") + "Slots" +
                                  std::to_string(s.max_slots) + "Ring" + std::to_string(s.ring_size);
                         });

TEST(RecoverPackedTest, AnIndexPageThatContradictsItselfIsRefused) {
  const auto read = [](uint16_t) -> absl::StatusOr<PackedTail> { return PackedTail{}; };
  EXPECT_FALSE(RecoverPacked({}, 16, 16, false, read).ok());  // position beyond the ring
  const IndexPageChain none{};
  EXPECT_FALSE(RecoverPacked({&none, 1}, 0, 16, false, read).ok());  // a chain of no slots
  const IndexPageChain big[2] = {{.head_len = 0, .head_id = 0, .slots = 9, .last_id = 0, .head_flags = 0},
                                 {.head_len = 0, .head_id = 0, .slots = 9, .last_id = 0, .head_flags = 0}};
  EXPECT_FALSE(RecoverPacked(big, 0, 16, false, read).ok());
}

// Split: the used elements are copied, then idx is stored. librte_vhost, flush_shadow_used_ring_split.
class SplitWorld {
 public:
  explicit SplitWorld(unsigned seed)
      : random_(seed), memory_(1, size_t{1} << 20), ring_({.size = kSize, .max_indirect = 1}, memory_) {
    stores_.between = [this] {
      if (Random(4) == 0) GuestStep();
    };
  }
  unsigned Random(unsigned below) { return std::uniform_int_distribution<unsigned>(0, below - 1)(random_); }
  void GuestStep() {
    for (UsedBuffer used; ring_.PopUsed(&used);) {
    }
    if (!refill_) return;
    for (unsigned n = Random(4); n > 0; --n) {
      const std::vector<Segment> chain(1 + Random(3), Segment{0x1000, 256, true});
      if (!ring_.Add(chain, 0, false)) break;
      ring_.Publish();
    }
  }
  void RunDevice(uint64_t kill_after, unsigned bursts) {
    stores_.kill_after = kill_after == UINT64_MAX ? UINT64_MAX : stores_.count() + kill_after;
    try {
      for (unsigned i = 0; i < bursts; ++i) {
        GuestStep();
        const uint16_t avail = *U16(ring_.driver_gpa() + 2);
        unsigned n = std::min<unsigned>(Random(9), static_cast<uint16_t>(avail - last_));
        const uint16_t from = last_;
        last_ = static_cast<uint16_t>(last_ + n);  // taken from avail, not yet given back
        for (unsigned k = 0; k < n; ++k) {
          const auto at = static_cast<uint16_t>(from + k);
          const uint16_t id = *U16(ring_.driver_gpa() + 4 + 2 * (at % kSize));
          stores_.Put(*U32(ring_.device_gpa() + 4 + 8 * (at % kSize)), uint32_t{id});
          stores_.Put(*U32(ring_.device_gpa() + 8 + 8 * (at % kSize)), uint32_t{99});
        }
        stores_.Put(*U16(ring_.device_gpa() + kSplitUsedIdxOffset), last_);
      }
    } catch (const Killed&) {
    }
  }
  uint16_t UsedIdx() { return *U16(ring_.device_gpa() + kSplitUsedIdxOffset); }
  uint16_t last_avail() const { return last_; }
  void set_base(uint16_t base) { last_ = base; }
  void Drain() {
    refill_ = false;
    for (int i = 0; i < 200; ++i) RunDevice(UINT64_MAX, 1);
    GuestStep();
  }
  bool whole() const { return ring_.account().unknown == 0 && ring_.account().outstanding() == 0; }

 private:
  static constexpr uint16_t kSize = 32;
  uint16_t* U16(uint64_t gpa) { return reinterpret_cast<uint16_t*>(memory_.Host(gpa, 2)); }
  uint32_t* U32(uint64_t gpa) { return reinterpret_cast<uint32_t*>(memory_.Host(gpa, 4)); }
  std::mt19937 random_;
  GuestMemory memory_;
  SplitRing ring_;
  Stores stores_;
  uint16_t last_ = 0;
  bool refill_ = true;
};

TEST(SplitBaseTest, FromUsedIdxEveryBufferComesBackOnce) {
  for (unsigned seed = 0; seed < 1'000; ++seed) {
    SplitWorld world(seed);
    for (int life = 0; life < 4; ++life) {
      world.RunDevice(1 + world.Random(200), 30);
      world.set_base(world.UsedIdx());
    }
    world.Drain();
    ASSERT_TRUE(world.whole()) << "seed " << seed;
  }
}

TEST(SplitBaseTest, FromAvailBuffersAreLost) {
  unsigned lossy = 0;
  for (unsigned seed = 0; seed < 1'000; ++seed) {
    SplitWorld world(seed);
    world.RunDevice(1 + world.Random(200), 30);
    world.set_base(world.last_avail());
    world.Drain();
    lossy += world.whole() ? 0 : 1;
  }
  EXPECT_GT(lossy, 100u);
}

}  // namespace
}  // namespace everport
