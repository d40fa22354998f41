#include "backend/datapath/ethdev_endpoint.h"

#include <fcntl.h>
#include <rte_dev.h>
#include <rte_errno.h>
#include <rte_ethdev.h>
#include <rte_mbuf.h>

#include <algorithm>
#include <mutex>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/str_split.h"
#include "backend/base/log.h"
#include "backend/datapath/eal.h"

namespace everport {
namespace {

constexpr uint32_t kEthernetOverhead = 18;  // header and CRC, as ethdev counts them
constexpr uint64_t kChecksums =
    RTE_ETH_TX_OFFLOAD_IPV4_CKSUM | RTE_ETH_TX_OFFLOAD_TCP_CKSUM | RTE_ETH_TX_OFFLOAD_UDP_CKSUM;
// A frame of 64 KiB in mbufs of 2 KiB, with the odd one more where the guest's buffers end.
constexpr uint16_t kTsoSegments = 40;
// Some NICs take smaller segments for an attack and stop the VF (i40e, ice: 256 at least, or else).
constexpr uint16_t kLeastHardwareMss = 256;

// What DPDK has said of a device. Names that we gave it (net_af_packet7) mean nothing to the operator and are others
// each time, and an error that comes again is known by its text.
std::string SaidOf(const CaptureDpdkLog& said, const EthdevEndpoint::Options& options, const std::string& name) {
  if (absl::StrContains(options.device, name)) return said.text();
  return absl::StrReplaceAll(said.text(), {{name, name.substr(0, name.find_last_not_of("0123456789") + 1)}});
}

std::string MendOf(const EthdevEndpoint::Options& options) {
  return options.mend.empty() ? "" : "; " + options.mend;
}

}  // namespace

EthdevEndpoint::EthdevEndpoint(const Options& options, std::string eal_name, uint16_t ethdev_id)
    : device_(options.device),
      bus_(options.bus),
      eal_name_(std::move(eal_name)),
      ethdev_id_(ethdev_id),
      edge_wakes_(options.edge_wakes),
      watch_(std::make_unique<EthdevWatch>(ethdev_id, eal_name_, options.follow_link, options.reset, options.changed)) {
}

absl::Status EthdevEndpoint::Failed(const char* what, int error) const {
  return absl::UnavailableError(absl::StrCat(device_, ": ", what, ": ", rte_strerror(std::abs(error))));
}

absl::StatusOr<std::unique_ptr<EthdevEndpoint>> EthdevEndpoint::Open(const Options& options) {
  const std::pair<std::string, std::string> parts = absl::StrSplit(options.devargs, absl::MaxSplits(',', 1));
  const auto& [name, args] = parts;
  CaptureDpdkLog said;
  std::unique_lock plugging(EalHotplugMutex());
  if (rte_eal_hotplug_add(options.bus.c_str(), name.c_str(), args.c_str()) != 0) {
    const std::string why = SaidOf(said, options, name);
    return absl::UnavailableError(absl::StrCat(
        options.device, ": DPDK could not open it: ", why.empty() ? rte_strerror(rte_errno) : why, MendOf(options)));
  }
  uint16_t id = 0;
  if (rte_eth_dev_get_port_by_name(name.c_str(), &id) != 0) {
    rte_eal_hotplug_remove(options.bus.c_str(), name.c_str());
    return absl::UnavailableError(absl::StrCat(options.device, ": it is not an Ethernet device; ",
                                               options.bus == "pci" ? "name a NIC's" : "use a net_… vdev"));
  }
  plugging.unlock();
  std::unique_ptr<EthdevEndpoint> endpoint(new EthdevEndpoint(options, name, id));
  if (absl::Status status = endpoint->Start(options); !status.ok()) {
    const std::string why = SaidOf(said, options, name), message(status.message());
    const std::string mend = absl::StrContains(message, "; ") ? "" : MendOf(options);
    return absl::Status(status.code(), absl::StrCat(message, why.empty() ? "" : absl::StrCat(" (", why, ")"), mend));
  }
  return endpoint;
}

absl::Status EthdevEndpoint::Start(const Options& options) {
  rte_eth_dev_info info{};
  if (int error = rte_eth_dev_info_get(ethdev_id_, &info)) return Failed("no device information", error);
  rx_queues_ = std::clamp<uint16_t>(options.queue_pairs, 1, std::max<uint16_t>(info.max_rx_queues, 1));
  tx_queues_ = std::clamp<uint16_t>(options.queue_pairs, 1, std::max<uint16_t>(info.max_tx_queues, 1));
  // Drivers that make queues in pairs (tap) want as many of either.
  rx_queues_ = tx_queues_ = std::min(rx_queues_, tx_queues_);
  numa_node_ = rte_eth_dev_socket_id(ethdev_id_);

  if (absl::Status status = Configure(options, info); !status.ok()) return status;

  uint16_t rx_descriptors = options.descriptors, tx_descriptors = options.descriptors;
  if (int error = rte_eth_dev_adjust_nb_rx_tx_desc(ethdev_id_, &rx_descriptors, &tx_descriptors))
    return Failed("descriptor counts", error);
  tx_descriptors_ = tx_descriptors;
  const int socket = numa_node_ < 0 ? static_cast<int>(SOCKET_ID_ANY) : numa_node_;
  for (uint16_t q = 0; q < rx_queues_; ++q) {
    if (int error = rte_eth_rx_queue_setup(ethdev_id_, q, rx_descriptors, socket, nullptr, options.pool))
      return Failed("receive queue", error);
  }
  for (uint16_t q = 0; q < tx_queues_; ++q) {
    if (int error = rte_eth_tx_queue_setup(ethdev_id_, q, tx_descriptors, socket, nullptr))
      return Failed("transmit queue", error);
  }
  const bool sets_mtu = options.mtu + kEthernetOverhead <= info.max_rx_pktlen;
  if (int error = sets_mtu ? rte_eth_dev_set_mtu(ethdev_id_, options.mtu) : 0;
      error != 0 && error != -ENOTSUP && options.mtu > 1500) {
    return absl::InvalidArgumentError(absl::StrCat(device_, ": MTU ", options.mtu, ": ", rte_strerror(-error),
                                                   "; lower the port's mtu or use another uplink"));
  }
  if (int error = rte_eth_dev_start(ethdev_id_)) return Failed("start", error);
  rx_interrupts_ = rx_interrupts_ && InterruptsWork();
  if (options.promiscuous) {
    const int error = rte_eth_promiscuous_enable(ethdev_id_);
    if (error != 0 && error != -ENOTSUP)
      spdlog::warn("{}: not promiscuous ({}): frames for the guest may not arrive", device_, rte_strerror(-error));
  }
  return absl::OkStatus();
}

// Offloads for sending that are used: what the operator's device has of what OffloadCaps can say.
uint64_t EthdevEndpoint::ChooseOffloads(const Options& options, const rte_eth_dev_info& info) {
  caps_ = OffloadCaps{};
  caps_.mtu = options.mtu;
  multi_segment_ = info.tx_offload_capa & RTE_ETH_TX_OFFLOAD_MULTI_SEGS;
  uint64_t offloads = info.tx_offload_capa & RTE_ETH_TX_OFFLOAD_MULTI_SEGS;
  prepare_ = options.offloads && (info.tx_offload_capa & kChecksums) == kChecksums;
  if (!prepare_) return offloads;
  caps_.l4_checksum = true;
  offloads |= kChecksums;
  const bool tso = info.tx_offload_capa & RTE_ETH_TX_OFFLOAD_TCP_TSO;
  if (!tso || !multi_segment_ || info.tx_desc_lim.nb_seg_max < kTsoSegments) return offloads;
  caps_.tso4 = caps_.tso6 = true;
  caps_.least_mss = bus_ == "pci" ? kLeastHardwareMss : 0;
  return offloads | RTE_ETH_TX_OFFLOAD_TCP_TSO;
}

// Some drivers accept a configuration with interrupts and have none; asked later, each time would be a line in the log.
bool EthdevEndpoint::InterruptsWork() const {
  if (rte_eth_dev_rx_intr_ctl_q_get_fd(ethdev_id_, 0) < 0) return false;
  if (!edge_wakes_) return true;
  for (uint16_t q = 0; q < rx_queues_; ++q) {
    if (rte_eth_dev_rx_intr_enable(ethdev_id_, q) != 0) return false;
  }
  return true;
}

absl::Status EthdevEndpoint::Configure(const Options& options, const rte_eth_dev_info& info) {
  rte_eth_conf conf{};
  conf.txmode.offloads = ChooseOffloads(options, info);
  conf.rxmode.offloads = info.rx_offload_capa & RTE_ETH_RX_OFFLOAD_SCATTER;
  // A driver on top of a kernel device (af_packet) may know nothing of MTUs: the kernel device's has been checked.
  if (options.mtu + kEthernetOverhead <= info.max_rx_pktlen) conf.rxmode.mtu = options.mtu;
  conf.intr_conf.lsc = *info.dev_flags & RTE_ETH_DEV_INTR_LSC ? 1 : 0;
  conf.intr_conf.rmv = *info.dev_flags & RTE_ETH_DEV_INTR_RMV ? 1 : 0;
  if (rx_queues_ > 1 && (info.flow_type_rss_offloads & (RTE_ETH_RSS_IP | RTE_ETH_RSS_TCP | RTE_ETH_RSS_UDP))) {
    conf.rxmode.mq_mode = RTE_ETH_MQ_RX_RSS;
    conf.rx_adv_conf.rss_conf.rss_hf =
        info.flow_type_rss_offloads & (RTE_ETH_RSS_IP | RTE_ETH_RSS_TCP | RTE_ETH_RSS_UDP);
  }
  conf.intr_conf.rxq = 1;
  rx_interrupts_ = rte_eth_dev_configure(ethdev_id_, rx_queues_, tx_queues_, &conf) == 0;
  if (!rx_interrupts_) {
    conf.intr_conf.rxq = 0;
    if (int error = rte_eth_dev_configure(ethdev_id_, rx_queues_, tx_queues_, &conf)) return Failed("configure", error);
  }
  return absl::OkStatus();
}

EthdevEndpoint::~EthdevEndpoint() {
  watch_.reset();
  if (int error = rte_eth_dev_stop(ethdev_id_); error != 0)
    spdlog::debug("{}: stop: {}", device_, rte_strerror(-error));
  const std::lock_guard plugging(EalHotplugMutex());
  if (int error = rte_eal_hotplug_remove(bus_.c_str(), eal_name_.c_str()); error != 0)
    spdlog::warn("{}: DPDK did not remove {}: {}", device_, eal_name_, rte_strerror(std::abs(error)));
}

uint16_t EthdevEndpoint::Receive(uint16_t queue, rte_mbuf** frames, uint16_t n) {
  return rte_eth_rx_burst(ethdev_id_, queue, frames, n);
}

// Makes one mbuf of each chain, for a device that takes no chains. Returns how many of the first frames are such.
uint16_t EthdevEndpoint::MakeSingle(rte_mbuf** frames, uint16_t n) {
  uint16_t done = 0;
  while (done < n && (frames[done]->nb_segs == 1 || rte_pktmbuf_linearize(frames[done]) == 0)) ++done;
  return done;
}

uint16_t EthdevEndpoint::Transmit(uint16_t queue, rte_mbuf** frames, uint16_t n) {
  const uint16_t fit = multi_segment_ ? n : MakeSingle(frames, n);
  const uint16_t fine = prepare_ ? rte_eth_tx_prepare(ethdev_id_, queue, frames, fit) : fit;
  const uint16_t sent = rte_eth_tx_burst(ethdev_id_, queue, frames, fine);
  if (sent < fine || fine == n) return sent;
  // The frame behind is too long for one mbuf, or nothing the device can do: nothing will ever send it.
  rte_pktmbuf_free(frames[sent]);
  refused_.fetch_add(1, std::memory_order_relaxed);
  return sent + 1;
}

uint64_t EthdevEndpoint::in_flight() const {
  uint64_t unfinished = 0;
  for (uint16_t q = 0; bus_ == "pci" && q < tx_queues_; ++q) {
    // The last one that was queued is the farthest from the tail, as the ring goes round.
    for (int at = tx_descriptors_ - 1;
         at >= 0 && rte_eth_tx_descriptor_status(ethdev_id_, q, static_cast<uint16_t>(at)) == RTE_ETH_TX_DESC_FULL;
         --at)
      ++unfinished;
  }
  return unfinished;
}

void EthdevEndpoint::ArmWake() {
  if (!rx_interrupts_) return;
  for (uint16_t q = 0; q < rx_queues_; ++q) rte_eth_dev_rx_intr_enable(ethdev_id_, q);
}

void EthdevEndpoint::DisarmWake() {
  if (!rx_interrupts_) return;
  for (uint16_t q = 0; q < rx_queues_; ++q) rte_eth_dev_rx_intr_disable(ethdev_id_, q);
}

std::vector<Endpoint::WakeFd> EthdevEndpoint::WakeFds(bool& complete) {
  std::vector<WakeFd> fds;
  for (uint16_t q = 0; q < rx_queues_; ++q) {
    const int fd = rx_interrupts_ ? rte_eth_dev_rx_intr_ctl_q_get_fd(ethdev_id_, q) : -1;
    if (fd >= 0) {
      fds.push_back({UniqueFd(fcntl(fd, F_DUPFD_CLOEXEC, 0)), edge_wakes_});
    } else {
      complete = false;
    }
  }
  return fds;
}

}  // namespace everport
