#include "backend/datapath/mempools.h"

#include <gtest/gtest.h>
#include <rte_mbuf.h>
#include <rte_mempool.h>

#include <algorithm>
#include <vector>

namespace everport {
namespace {

using Kind = Mempools::Kind;

std::vector<rte_mbuf*> All(rte_mempool* pool) {
  std::vector<rte_mbuf*> mbufs(pool->populated_size);
  EXPECT_EQ(rte_pktmbuf_alloc_bulk(pool, mbufs.data(), static_cast<unsigned>(mbufs.size())), 0);
  return mbufs;
}

// net_af_xdp (22.11) registers populated_size times an object's size, from the first page on.
TEST(MempoolsTest, AUmemHasNoGaps) {
  Mempools mempools;
  auto lease = mempools.Reserve(-1, 1000, Kind::kUmem);
  ASSERT_TRUE(lease.ok()) << lease.status();
  rte_mempool* pool = (*lease)->pool();
  std::vector<rte_mbuf*> mbufs = All(pool);
  const auto [first, last] = std::minmax_element(mbufs.begin(), mbufs.end());
  const size_t object = rte_mempool_calc_obj_size(pool->elt_size, pool->flags, nullptr);
  EXPECT_EQ(reinterpret_cast<char*>(*last) - reinterpret_cast<char*>(*first),
            static_cast<ptrdiff_t>((mbufs.size() - 1) * object));
  for (const rte_mbuf* mbuf : mbufs)  // another device may have to send it
    ASSERT_EQ(rte_mbuf_iova_get(mbuf), reinterpret_cast<rte_iova_t>(mbuf->buf_addr));
  rte_pktmbuf_free_bulk(mbufs.data(), static_cast<unsigned>(mbufs.size()));
}

TEST(MempoolsTest, SharedPoolsAreSharedAndOwnOnesAreNot) {
  Mempools mempools;
  auto a = mempools.Reserve(-1, 100), b = mempools.Reserve(-1, 100);
  auto own = mempools.Reserve(-1, 100, Kind::kOwn, 4096), umem = mempools.Reserve(-1, 100, Kind::kUmem);
  ASSERT_TRUE(a.ok() && b.ok() && own.ok() && umem.ok());
  EXPECT_EQ((*a)->pool(), (*b)->pool());
  EXPECT_NE((*own)->pool(), (*a)->pool());
  EXPECT_NE((*umem)->pool(), (*own)->pool());
  EXPECT_EQ(rte_pktmbuf_data_room_size((*own)->pool()), 4096);
}

TEST(MempoolsTest, MbufsThatAreUnderWayOutliveTheReservation) {
  Mempools mempools;
  auto lease = mempools.Reserve(-1, 10, Kind::kOwn);
  ASSERT_TRUE(lease.ok()) << lease.status();
  rte_mbuf* under_way = rte_pktmbuf_alloc((*lease)->pool());
  ASSERT_NE(under_way, nullptr);
  lease->reset();
  EXPECT_GT(rte_pktmbuf_tailroom(under_way), 0);
  rte_pktmbuf_free(under_way);  // the pool is there
}

}  // namespace
}  // namespace everport
