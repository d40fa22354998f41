#include "backend/datapath/mempools.h"

#include <rte_eal.h>
#include <rte_errno.h>
#include <rte_mbuf.h>
#include <rte_mempool.h>

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "backend/base/log.h"

namespace everport {
namespace {

constexpr unsigned kPoolMbufs = 8191;  // 2^n - 1: what rte_mempool stores best; about 19 MiB
// What pollers hold at once whatever the number of ports: a burst of 32 frames of 64 KiB, and the per-lcore caches.
constexpr unsigned kSharedMbufs = 2048;
constexpr unsigned kCache = 256;

rte_mempool* CreateUmem(const std::string& name, unsigned mbufs, uint16_t data_room, int socket) {
  // Memory for which no IOVA is wanted is laid out without regard to pages: else no mbuf would lie across two. There is
  // one all the same where it is the address itself; an mbuf may be handed to another device when paths change.
  const bool iova_is_va = rte_eal_iova_mode() == RTE_IOVA_VA;
  const unsigned flags = iova_is_va ? RTE_MEMPOOL_F_NO_IOVA_CONTIG : 0;
  rte_pktmbuf_pool_private room{};
  room.mbuf_data_room_size = data_room;
  rte_mempool* pool =
      rte_mempool_create(name.c_str(), mbufs, static_cast<unsigned>(sizeof(rte_mbuf)) + data_room, 0, sizeof room,
                         rte_pktmbuf_pool_init, &room, rte_pktmbuf_init, nullptr, socket, flags);
  if (pool && iova_is_va) {
    rte_mempool_obj_iter(
        pool,
        [](rte_mempool*, void*, void* object, unsigned) {
          auto* mbuf = static_cast<rte_mbuf*>(object);
          rte_mbuf_iova_set(mbuf, reinterpret_cast<rte_iova_t>(mbuf->buf_addr));
        },
        nullptr);
  }
  return pool;
}

}  // namespace

Mempools::Lease::~Lease() {
  owner_->Release(pool_, mbufs_);
}

Mempools::~Mempools() {
  rte_mempool_free(indirect_);
  for (const Pool& pool : pools_) rte_mempool_free(pool.pool);
}

rte_mempool* Mempools::Create(int node, unsigned mbufs, Kind kind, uint16_t data_room) {
  const std::string name = absl::StrCat("everport_", serial_++);
  const auto create = [&](int socket) {
    return kind == Kind::kUmem
               ? CreateUmem(name, mbufs, data_room, socket)
               : rte_pktmbuf_pool_create(name.c_str(), mbufs, kind == Kind::kShared ? kCache : 0, 0, data_room, socket);
  };
  rte_mempool* made = create(node < 0 ? static_cast<int>(SOCKET_ID_ANY) : node);
  if (made || node < 0) return made;
  spdlog::warn("mempool: no memory on NUMA node {} ({}); another node is used and forwarding is slower", node,
               rte_strerror(rte_errno));
  return create(SOCKET_ID_ANY);
}

absl::StatusOr<std::unique_ptr<Mempools::Lease>> Mempools::Reserve(int node, unsigned mbufs, Kind kind,
                                                                   uint16_t data_room) {
  std::lock_guard lock(mutex_);
  FreeUnused();
  const bool shared = kind == Kind::kShared;
  auto pool = std::find_if(pools_.begin(), pools_.end(), [&](const Pool& p) {
    return shared && p.kind == Kind::kShared && p.node == node && p.free >= mbufs;
  });
  if (pool == pools_.end()) {
    const unsigned size = shared ? std::max(kPoolMbufs, mbufs + kSharedMbufs) : mbufs;
    rte_mempool* made = Create(node, size, kind, data_room ? data_room : RTE_MBUF_DEFAULT_BUF_SIZE);
    if (!made) {
      return absl::ResourceExhaustedError(absl::StrCat("mempool of ", size, " mbufs: ", rte_strerror(rte_errno),
                                                       "; reserve more hugepages (/proc/sys/vm/nr_hugepages)"));
    }
    pools_.push_back({made, node, shared ? size - kSharedMbufs : mbufs, 0, kind});
    pool = std::prev(pools_.end());
  }
  pool->free -= mbufs;
  ++pool->leases;
  return std::unique_ptr<Lease>(new Lease(this, pool->pool, node, mbufs));
}

rte_mempool* Mempools::indirect() {
  std::lock_guard lock(mutex_);
  if (!indirect_) indirect_ = rte_pktmbuf_pool_create("everport_indirect", kPoolMbufs, kCache, 0, 0, SOCKET_ID_ANY);
  return indirect_;
}

void Mempools::Release(rte_mempool* released, unsigned mbufs) {
  std::lock_guard lock(mutex_);
  auto pool = std::find_if(pools_.begin(), pools_.end(), [&](const Pool& p) { return p.pool == released; });
  pool->free += mbufs;
  --pool->leases;
  FreeUnused();
}

// Those without a lease and with all their mbufs back; the others are looked at again with the next call.
void Mempools::FreeUnused() {
  for (auto pool = pools_.begin(); pool != pools_.end();) {
    if (pool->leases > 0 || !rte_mempool_full(pool->pool)) {
      ++pool;
    } else {
      rte_mempool_free(pool->pool);
      pool = pools_.erase(pool);
    }
  }
}

}  // namespace everport
