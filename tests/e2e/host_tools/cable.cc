// A cable between two DPDK virtual devices: what one receives the other sends. Sleeps while nothing comes: guests under
// emulation need the CPU.
//
// usage: cable EAL-OPTION… --vdev=A --vdev=B        runs until it is killed; says "ready" when both are up
#include <rte_eal.h>
#include <rte_ethdev.h>
#include <rte_mbuf.h>
#include <unistd.h>

#include <cstdio>

namespace {

constexpr uint16_t kBurst = 32, kDescriptors = 256;
constexpr unsigned kMbufs = 4096, kIdleUs = 100;

bool Open(uint16_t port, rte_mempool* pool) {
  const rte_eth_conf conf{};
  return rte_eth_dev_configure(port, 1, 1, &conf) == 0 &&
         rte_eth_rx_queue_setup(port, 0, kDescriptors, SOCKET_ID_ANY, nullptr, pool) == 0 &&
         rte_eth_tx_queue_setup(port, 0, kDescriptors, SOCKET_ID_ANY, nullptr) == 0 && rte_eth_dev_start(port) == 0;
}

unsigned Carry(uint16_t from, uint16_t to) {
  rte_mbuf* frames[kBurst];
  const uint16_t received = rte_eth_rx_burst(from, 0, frames, kBurst);
  const uint16_t sent = rte_eth_tx_burst(to, 0, frames, received);
  if (sent < received) rte_pktmbuf_free_bulk(frames + sent, received - sent);
  return received;
}

}  // namespace

int main(int argc, char** argv) {
  if (rte_eal_init(argc, argv) < 0 || rte_eth_dev_count_avail() != 2) {
    std::fprintf(stderr, "usage: cable EAL-OPTION… --vdev=A --vdev=B\n");
    return 2;
  }
  rte_mempool* pool = rte_pktmbuf_pool_create("cable", kMbufs, 0, 0, RTE_MBUF_DEFAULT_BUF_SIZE, SOCKET_ID_ANY);
  if (pool == nullptr || !Open(0, pool) || !Open(1, pool)) {
    std::fprintf(stderr, "cable: a device cannot be opened: %s\n", rte_strerror(rte_errno));
    return 1;
  }
  std::printf("ready\n");
  std::fflush(stdout);
  for (;;) {
    if (Carry(0, 1) + Carry(1, 0) == 0) usleep(kIdleUs);
  }
}
