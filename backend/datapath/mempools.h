#pragma once

#include <cstddef>
#include <map>
#include <memory>
#include <mutex>
#include <vector>

#include "absl/status/statusor.h"

struct rte_mempool;

namespace everport {

// mbuf pools, shared by the ports of a NUMA node so that a further port costs what it holds and no more: a port
// reserves the mbufs its uplink's rings may keep, and gets a pool with so many to spare. Any thread; the pools
// themselves may be used from any lcore. The mbufs' data room is RTE_MBUF_DEFAULT_BUF_SIZE.
class Mempools {
 public:
  // One reservation; gives it back when destroyed. No new mbufs may be taken from it then. Those that are under way
  // still (in another uplink's transmit ring, after a switch) keep the pool in being until they are back.
  class Lease {
   public:
    ~Lease();
    Lease(const Lease&) = delete;
    Lease& operator=(const Lease&) = delete;
    rte_mempool* pool() const { return pool_; }
    int node() const { return node_; }

   private:
    friend class Mempools;
    Lease(Mempools* owner, rte_mempool* pool, int node, unsigned mbufs)
        : owner_(owner), pool_(pool), node_(node), mbufs_(mbufs) {}
    Mempools* owner_;
    rte_mempool* pool_;
    int node_;
    unsigned mbufs_;
  };

  Mempools() = default;
  ~Mempools();
  Mempools(const Mempools&) = delete;
  Mempools& operator=(const Mempools&) = delete;

  // kShared: with others'. kOwn: a pool of its own. kUmem: likewise, and one mbuf after the other without a gap:
  // net_af_xdp (22.11) makes as much of it its UMEM as that many mbufs take, and what is sent out of the rest is lost.
  enum class Kind { kShared, kOwn, kUmem };
  // Reserves mbufs on a node (-1: any), of data_room bytes (not kShared) if that is not 0.
  // ResourceExhausted when there is no memory, with the mend.
  absl::StatusOr<std::unique_ptr<Lease>> Reserve(int node, unsigned mbufs, Kind kind = Kind::kShared,
                                                 uint16_t data_room = 0);

  // mbufs without data room, which refer to others' data: for segmentation. nullptr when there is no memory.
  rte_mempool* indirect();

 private:
  struct Pool {
    rte_mempool* pool;
    int node;
    unsigned free;  // mbufs not reserved
    unsigned leases;
    Kind kind;
  };
  rte_mempool* Create(int node, unsigned mbufs, Kind kind, uint16_t data_room);
  void Release(rte_mempool* pool, unsigned mbufs);
  void FreeUnused();

  std::mutex mutex_;
  std::vector<Pool> pools_;
  rte_mempool* indirect_ = nullptr;
  unsigned serial_ = 0;
};

}  // namespace everport
