#include "backend/datapath/journal_scan.h"

#include <gtest/gtest.h>

#include <array>
#include <atomic>
#include <random>
#include <thread>
#include <vector>

namespace everport {
namespace {

constexpr uint16_t kWrapSet = 0x8000;

// A packed ring as a driver writes it.
class Ring {
 public:
  explicit Ring(uint16_t size) : descs_(size) {}

  // Makes a chain of `slots` descriptors available at position; ids count up from id, lens likewise from 100 * id.
  uint16_t Put(uint16_t position, uint16_t slots, uint16_t id, uint16_t extra_flags = 0) {
    for (uint16_t i = 0; i < slots; ++i) {
      const uint16_t next = i + 1 < slots ? kPackedNext : 0;
      At(position) = {0x1000, 100u * id + i, static_cast<uint16_t>(id + i),
                      static_cast<uint16_t>(AvailFlags(position) | next | extra_flags)};
      position = Advance(position, 1, size());
    }
    return position;
  }
  static uint16_t AvailFlags(uint16_t position) { return position & kWrapSet ? kPackedAvail : kPackedUsed; }
  static uint16_t UsedFlags(uint16_t position) { return position & kWrapSet ? kPackedAvail | kPackedUsed : 0; }
  PackedDesc& At(uint16_t position) { return descs_[position & 0x7fff]; }
  uint16_t size() const { return static_cast<uint16_t>(descs_.size()); }

  std::vector<IndexPageChain> Scan(uint16_t position, unsigned max = 64) {
    std::vector<IndexPageChain> chains(max + 1, IndexPageChain{0xdead, 0, 0, 0, 0});
    const unsigned n = ScanChains(descs_.data(), size(), position, chains.data(), max);
    EXPECT_LE(n, max);
    EXPECT_EQ(chains[max].head_len, 0xdeadu) << "wrote past max_chains";
    chains.resize(n);
    return chains;
  }

 private:
  std::vector<PackedDesc> descs_;
};

TEST(AdvanceTest, FlipsTheWrapCounterAtTheEnd) {
  EXPECT_EQ(Advance(kWrapSet | 0, 1, 4), kWrapSet | 1);
  EXPECT_EQ(Advance(kWrapSet | 3, 1, 4), 0);
  EXPECT_EQ(Advance(3, 1, 4), kWrapSet | 0);
  EXPECT_EQ(Advance(kWrapSet | 3, 4, 4), 3);
  EXPECT_EQ(Advance(5, 0, 8), 5);
  EXPECT_EQ(Advance(32767, 32768, 32768), kWrapSet | 32767);
}

TEST(JournalScanTest, FreshRingHasNothing) {
  Ring ring(8);
  EXPECT_TRUE(ring.Scan(kWrapSet).empty());
}

TEST(JournalScanTest, ReadsSingleDescriptorsInRingOrder) {
  Ring ring(8);
  uint16_t at = kWrapSet;
  at = ring.Put(at, 1, 5);
  at = ring.Put(at, 1, 3, kPackedWrite);
  const auto chains = ring.Scan(kWrapSet);
  ASSERT_EQ(chains.size(), 2u);
  EXPECT_EQ(chains[0].head_id, 5);
  EXPECT_EQ(chains[0].last_id, 5);
  EXPECT_EQ(chains[0].head_len, 500u);
  EXPECT_EQ(chains[0].slots, 1);
  EXPECT_EQ(chains[0].head_flags, kPackedAvail);
  EXPECT_EQ(chains[1].head_id, 3);
  EXPECT_EQ(chains[1].head_flags, kPackedAvail | kPackedWrite);
}

TEST(JournalScanTest, ChainCarriesHeadAndLastDescriptor) {
  Ring ring(8);
  ring.Put(kWrapSet | 2, 3, 7);
  const auto chains = ring.Scan(kWrapSet | 2);
  ASSERT_EQ(chains.size(), 1u);
  EXPECT_EQ(chains[0].slots, 3);
  EXPECT_EQ(chains[0].head_id, 7);
  EXPECT_EQ(chains[0].last_id, 9);
  EXPECT_EQ(chains[0].head_len, 700u);
  EXPECT_EQ(chains[0].head_flags, kPackedAvail | kPackedNext);
}

TEST(JournalScanTest, FollowsAChainAcrossTheEndInBothRounds) {
  for (const uint16_t wrap : {kWrapSet, uint16_t{0}}) {
    Ring ring(8);
    for (uint16_t i = 0; i < 8; ++i) ring.At(i).flags = Ring::UsedFlags(wrap ^ kWrapSet);  // the round before
    const uint16_t start = wrap | 6;
    uint16_t at = ring.Put(start, 4, 1);
    EXPECT_EQ(at, (wrap ^ kWrapSet) | 2);
    at = ring.Put(at, 1, 9);
    const auto chains = ring.Scan(start);
    ASSERT_EQ(chains.size(), 2u);
    EXPECT_EQ(chains[0].slots, 4);
    EXPECT_EQ(chains[0].last_id, 4);
    EXPECT_EQ(chains[1].head_id, 9);
  }
}

TEST(JournalScanTest, FullRingIsScannedOnceAndNoFurther) {
  Ring ring(8);
  for (uint16_t i = 0, at = kWrapSet | 3; i < 8; ++i) at = ring.Put(at, 1, i);
  EXPECT_EQ(ring.Scan(kWrapSet | 3).size(), 8u);
}

TEST(JournalScanTest, ChainAsLongAsTheRingIsAChain) {
  Ring ring(8);
  ring.Put(kWrapSet | 5, 8, 1);
  const auto chains = ring.Scan(kWrapSet | 5);
  ASSERT_EQ(chains.size(), 1u);
  EXPECT_EQ(chains[0].slots, 8);
}

TEST(JournalScanTest, LoopEndsTheScanAndKeepsWhatWasBefore) {
  Ring loop(1);
  loop.At(0).flags = kPackedAvail | kPackedNext;
  EXPECT_TRUE(loop.Scan(kWrapSet).empty());
  Ring good_then_loop(8);
  good_then_loop.Put(kWrapSet, 2, 1);
  for (uint16_t i = 2; i < 8; ++i) good_then_loop.At(i).flags = kPackedAvail | kPackedNext;
  EXPECT_EQ(good_then_loop.Scan(kWrapSet).size(), 1u);
}

TEST(JournalScanTest, IncompleteChainIsNotCounted) {
  Ring ring(8);
  const uint16_t at = ring.Put(kWrapSet, 1, 1);
  ring.Put(at, 3, 2);
  ring.At(3).flags = 0;  // the last of the chain is not available yet
  EXPECT_EQ(ring.Scan(kWrapSet).size(), 1u);
}

TEST(JournalScanTest, IndirectTakesOneSlot) {
  Ring ring(8);
  const uint16_t at = ring.Put(kWrapSet, 1, 1, kPackedIndirect);
  ring.Put(at, 1, 2);
  const auto chains = ring.Scan(kWrapSet);
  ASSERT_EQ(chains.size(), 2u);
  EXPECT_EQ(chains[0].slots, 1);
  EXPECT_EQ(chains[0].head_flags, kPackedAvail | kPackedIndirect);
}

TEST(JournalScanTest, UsedDescriptorsAreNotAvailable) {
  Ring ring(4);
  ring.Put(kWrapSet, 1, 1);
  ring.At(0).flags = Ring::UsedFlags(kWrapSet);
  EXPECT_TRUE(ring.Scan(kWrapSet).empty());
}

TEST(JournalScanTest, HonoursTheLimitAndABadPosition) {
  Ring ring(8);
  for (uint16_t i = 0, at = kWrapSet; i < 8; ++i) at = ring.Put(at, 1, i);
  EXPECT_EQ(ring.Scan(kWrapSet, 3).size(), 3u);
  EXPECT_EQ(ring.Scan(kWrapSet, 0).size(), 0u);
  EXPECT_TRUE(ring.Scan(kWrapSet | 8).empty());
}

// Whatever is in the ring: the chains follow each other and take no more than the ring.
TEST(JournalScanTest, RandomRingsStayWithinBounds) {
  std::mt19937 random(1);
  for (int round = 0; round < 20000; ++round) {
    const uint16_t size = static_cast<uint16_t>(1 + random() % 33);  // packed rings need not be powers of two
    Ring ring(size);
    for (uint16_t i = 0; i < size; ++i) {
      ring.At(i) = {random(), static_cast<uint32_t>(random()), static_cast<uint16_t>(random()),
                    static_cast<uint16_t>(random() % 3 ? kPackedAvail | (random() & kPackedNext) : random())};
    }
    unsigned slots = 0;
    for (const IndexPageChain& chain : ring.Scan(static_cast<uint16_t>(kWrapSet | random() % size))) {
      EXPECT_GE(chain.slots, 1);
      slots += chain.slots;
    }
    ASSERT_LE(slots, size);
  }
}

// The guest rewrites flags while we scan, so that every descriptor is available in either round and goes on.
TEST(JournalScanTest, EndsWhileTheGuestChasesIt) {
  constexpr uint16_t kSize = 64;
  enum class Next { kNone, kAll, kLast };
  for (const Next next : {Next::kNone, Next::kAll, Next::kLast}) {
    std::vector<PackedDesc> ring(kSize);  // several cache lines, so that a scan sees them change
    std::atomic<bool> started{false}, stop{false};
    std::thread guest([&] {
      started.store(true);
      started.notify_one();
      for (uint16_t flags = kPackedAvail; !stop.load(std::memory_order_relaxed); flags ^= kPackedAvail | kPackedUsed) {
        for (PackedDesc& desc : ring) {
          using Word [[gnu::may_alias]] = uint64_t;
          const bool chained = next == Next::kAll || (next == Next::kLast && &desc == &ring.back());
          __atomic_store_n(reinterpret_cast<Word*>(&desc.len), uint64_t{flags} << 48 | uint64_t{chained} << 48,
                           __ATOMIC_RELEASE);
        }
      }
    });
    started.wait(false);
    for (int round = 0; round < 200000; ++round) {
      IndexPageChain chains[4 * kSize];
      unsigned slots = 0;
      for (unsigned i = 0, n = ScanChains(ring.data(), kSize, kWrapSet, chains, 4 * kSize); i < n; ++i)
        slots += chains[i].slots;
      EXPECT_LE(slots, kSize);
    }
    stop.store(true, std::memory_order_relaxed);
    guest.join();
  }
}

// A driver and a device that take turns for many rounds: each scan gives exactly what was put and not yet used.
TEST(JournalScanTest, FollowsADriverForManyRounds) {
  std::mt19937 random(2);
  Ring ring(13);
  uint16_t put = kWrapSet, used = kWrapSet, id = 0;
  std::vector<std::array<uint16_t, 2>> outstanding;  // head id, slots
  unsigned free = ring.size();
  for (int round = 0; round < 5000; ++round) {
    while (random() % 3) {
      const uint16_t slots = static_cast<uint16_t>(1 + random() % 4);
      if (slots > free) break;
      put = ring.Put(put, slots, id);
      outstanding.push_back({id, slots});
      id = static_cast<uint16_t>((id + slots) % 1000);
      free -= slots;
    }
    const auto chains = ring.Scan(used);
    ASSERT_EQ(chains.size(), outstanding.size()) << "round " << round;
    for (size_t i = 0; i < chains.size(); ++i) {
      EXPECT_EQ(chains[i].head_id, outstanding[i][0]);
      EXPECT_EQ(chains[i].slots, outstanding[i][1]);
    }
    for (unsigned n = outstanding.empty() ? 0 : random() % (outstanding.size() + 1); n > 0; --n) {
      ring.At(used).flags = Ring::UsedFlags(used);
      used = Advance(used, outstanding.front()[1], ring.size());
      free += outstanding.front()[1];
      outstanding.erase(outstanding.begin());
    }
  }
}

}  // namespace
}  // namespace everport
