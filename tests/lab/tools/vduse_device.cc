// A VDUSE network device for lab tests, on librte_vhost: exact to the frame.
// usage: vduse_device NAME PAIRS echo|stream|tap:INTERFACE
//   echo: each frame goes back to the driver that sent it, on the same queue pair, as soon as there is a buffer for it.
//   stream: frames are checked and counted; meanwhile numbered ones are sent, stream 100 + queue pair. "runs" tells
//   which sequence numbers have come.
//   tap:INTERFACE: frames go to and come from a tap that is made; of the first queue pair alone.
// On stdin "stats" asks for a line of JSON, "quit" or the end of file ends it. Says "ready" once /dev/vduse/NAME is
// there.

#include <fcntl.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <poll.h>
#include <rte_eal.h>
#include <rte_mbuf.h>
#include <rte_vhost.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <iostream>
#include <mutex>
#include <string>
#include <vector>

#include "tests/fakes/arrivals.h"
#include "tests/fakes/test_frame.h"

namespace everport {
namespace {

constexpr uint16_t kBurst = 32;
constexpr unsigned kMq = 22, kCtrlVq = 17;

struct Pair {
  uint64_t received = 0, sent = 0, refused = 0;  // refused: librte_vhost took fewer than there were buffers for
  uint64_t announcements = 0;                    // stream mode: frames that are no test frames
  fakes::FrameLedger ledger;                     // stream mode
  fakes::SequenceRuns runs;                      // likewise
};

class Device {
 public:
  // tap: of that mode, else -1.
  Device(unsigned pairs, bool echo, int tap, rte_mempool* pool) : pairs_(pairs), echo_(echo), tap_(tap), pool_(pool) {}

  // librte_vhost's thread. A burst is never cut in two: see RunOnce.
  void Start(int vid) {
    const std::lock_guard lock(mutex_);
    vid_ = vid;
    ++starts_;
  }
  void Stop() {
    const std::lock_guard lock(mutex_);
    vid_ = -1;
  }

  bool RunOnce() {
    const std::lock_guard lock(mutex_);
    if (vid_ < 0) return false;
    if (tap_ >= 0) return ToTap() + FromTap() > 0;
    unsigned moved = 0;
    for (uint16_t pair = 0; pair < pairs_.size(); ++pair) moved += echo_ ? Echo(pair) : Sink(pair) + Source(pair);
    return moved > 0;
  }

  std::string Stats() {
    const std::lock_guard lock(mutex_);
    std::string text = "{\"starts\": " + std::to_string(starts_) + ", \"pairs\": [";
    for (const Pair& pair : pairs_) {
      if (&pair != &pairs_[0]) text += ", ";
      text += "{\"received\": " + std::to_string(pair.received) + ", \"sent\": " + std::to_string(pair.sent) +
              ", \"refused\": " + std::to_string(pair.refused) +
              ", \"announcements\": " + std::to_string(pair.announcements) +
              ", \"missing\": " + std::to_string(pair.ledger.missing) +
              ", \"repeated\": " + std::to_string(pair.ledger.repeated) +
              ", \"corrupted\": " + std::to_string(pair.ledger.corrupted) + ", \"runs\": " + pair.runs.Json() + "}";
    }
    return text + "]}";
  }

 private:
  // Frames taken are given back in the same call: one that is stopped between two calls has none of the driver's.
  unsigned Echo(uint16_t pair) {
    Pair& p = pairs_[pair];
    std::array<rte_mbuf*, kBurst> frames;
    const auto room = static_cast<uint16_t>(std::min<unsigned>(kBurst, RoomFor(pair)));
    const uint16_t n = rte_vhost_dequeue_burst(vid_, static_cast<uint16_t>(2 * pair + 1), pool_, frames.data(), room);
    p.received += n;
    Give(pair, frames.data(), n);
    return n;
  }

  // Buffers that the driver has given for frames towards it, each for one frame.
  unsigned RoomFor(uint16_t pair) { return rte_vhost_avail_entries(vid_, static_cast<uint16_t>(2 * pair)); }

  unsigned Sink(uint16_t pair) {
    std::array<rte_mbuf*, kBurst> frames;
    const uint16_t n = rte_vhost_dequeue_burst(vid_, static_cast<uint16_t>(2 * pair + 1), pool_, frames.data(), kBurst);
    for (uint16_t i = 0; i < n; ++i) {
      const std::span<const uint8_t> frame(rte_pktmbuf_mtod(frames[i], const uint8_t*),
                                           rte_pktmbuf_data_len(frames[i]));
      if (!fakes::IsTestFrame(frame)) {
        ++pairs_[pair].announcements;
        continue;
      }
      ++pairs_[pair].received;
      pairs_[pair].ledger.Saw(frame);
      if (const auto id = fakes::CheckTestFrame(frame)) pairs_[pair].runs.Saw(id->sequence);
    }
    rte_pktmbuf_free_bulk(frames.data(), n);
    return n;
  }

  unsigned Source(uint16_t pair) {
    const auto n = static_cast<uint16_t>(std::min<unsigned>(kBurst, RoomFor(pair)));
    std::array<rte_mbuf*, kBurst> frames;
    if (n == 0 || rte_pktmbuf_alloc_bulk(pool_, frames.data(), n) != 0) return 0;
    for (uint16_t i = 0; i < n; ++i) {
      auto* data = reinterpret_cast<uint8_t*>(rte_pktmbuf_append(frames[i], 64));
      fakes::FillTestFrame({data, 64}, 100u + pair, pairs_[pair].sent + i);
    }
    Give(pair, frames.data(), n);
    return n;
  }

  unsigned ToTap() {
    std::array<rte_mbuf*, kBurst> frames;
    const uint16_t n = rte_vhost_dequeue_burst(vid_, 1, pool_, frames.data(), kBurst);
    for (uint16_t i = 0; i < n; ++i) {
      const ssize_t size = rte_pktmbuf_data_len(frames[i]);
      pairs_[0].refused += ::write(tap_, rte_pktmbuf_mtod(frames[i], const uint8_t*), size_t(size)) != size;
    }
    pairs_[0].received += n;
    rte_pktmbuf_free_bulk(frames.data(), n);
    return n;
  }

  unsigned FromTap() {
    const unsigned room = std::min<unsigned>(kBurst, RoomFor(0));
    std::array<rte_mbuf*, kBurst> frames;
    uint16_t n = 0;
    for (; n < room && (frames[n] = rte_pktmbuf_alloc(pool_)) != nullptr; ++n) {
      const ssize_t size = ::read(tap_, rte_pktmbuf_mtod(frames[n], void*), rte_pktmbuf_tailroom(frames[n]));
      if (size <= 0) {
        rte_pktmbuf_free(frames[n]);
        break;
      }
      rte_pktmbuf_append(frames[n], static_cast<uint16_t>(size));
    }
    Give(0, frames.data(), n);
    return n;
  }

  void Give(uint16_t pair, rte_mbuf** frames, uint16_t n) {
    if (n == 0) return;
    const uint16_t sent = rte_vhost_enqueue_burst(vid_, static_cast<uint16_t>(2 * pair), frames, n);
    pairs_[pair].sent += sent;
    pairs_[pair].refused += static_cast<uint64_t>(n - sent);
    rte_pktmbuf_free_bulk(frames, n);
  }

  std::mutex mutex_;  // held for a burst; whoever stops the device waits for its end
  int vid_ = -1;
  uint64_t starts_ = 0;
  std::vector<Pair> pairs_;
  const bool echo_;
  const int tap_;
  rte_mempool* const pool_;
};

Device* device = nullptr;

int OnNewDevice(int vid) {
  for (uint16_t vring = 0; vring < rte_vhost_get_vring_num(vid); ++vring)
    rte_vhost_enable_guest_notification(vid, vring, 0);
  device->Start(vid);
  return 0;
}
void OnDestroyDevice(int) {
  device->Stop();
}
const rte_vhost_device_ops kOps = {.new_device = OnNewDevice,
                                   .destroy_device = OnDestroyDevice,
                                   .vring_state_changed = nullptr,
                                   .features_changed = nullptr,
                                   .new_connection = nullptr,
                                   .destroy_connection = nullptr,
                                   .guest_notified = nullptr,
                                   .guest_notify = nullptr};

bool Register(const std::string& path, unsigned pairs) {
  // The kernel makes no VDUSE device with a control queue (drivers/vdpa/vdpa_user/vduse_dev.c, features_is_valid).
  return rte_vhost_driver_register(path.c_str(), 0) == 0 &&
         rte_vhost_driver_set_max_queue_num(path.c_str(), pairs) == 0 &&
         rte_vhost_driver_disable_features(path.c_str(), 1ull << kMq | 1ull << kCtrlVq) == 0 &&
         rte_vhost_driver_callback_register(path.c_str(), &kOps) == 0 && rte_vhost_driver_start(path.c_str()) == 0;
}

// False: end.
bool Answer() {
  std::string line;
  if (!std::getline(std::cin, line) || line == "quit") return false;
  std::cout << device->Stats() << std::endl;
  return true;
}

// -1 with errno.
int OpenTap(const std::string& name) {
  const int fd = ::open("/dev/net/tun", O_RDWR | O_NONBLOCK | O_CLOEXEC);
  ifreq request{};
  request.ifr_flags = IFF_TAP | IFF_NO_PI;
  name.copy(request.ifr_name, IFNAMSIZ - 1);
  return fd >= 0 && ::ioctl(fd, TUNSETIFF, &request) == 0 ? fd : -1;
}

int Main(const std::string& name, unsigned pairs, const std::string& mode) {
  const bool wired = mode.starts_with("tap:");
  const int tap = wired ? OpenTap(mode.substr(4)) : -1;
  if (wired && tap < 0) return std::perror(mode.c_str()), 1;
  rte_mempool* pool = rte_pktmbuf_pool_create("frames", 4095, 0, 0, RTE_MBUF_DEFAULT_BUF_SIZE, 0);
  if (!pool) return std::perror("mbuf pool"), 1;
  Device the_device(pairs, mode == "echo", tap, pool);
  device = &the_device;
  const std::string path = "/dev/vduse/" + name;
  if (!Register(path, pairs)) return std::fprintf(stderr, "%s could not be made\n", path.c_str()), 1;
  std::cout << "ready" << std::endl;
  pollfd in{0, POLLIN, 0};
  for (unsigned turn = 0;; ++turn) {
    const bool moved = the_device.RunOnce();
    if (!moved) ::usleep(tap < 0 ? 50 : 500);  // two host CPUs serve the whole VM
    if ((!moved || turn % 256 == 0) && ::poll(&in, 1, 0) == 1 && !Answer()) break;
  }
  rte_vhost_driver_unregister(path.c_str());
  return 0;
}

}  // namespace
}  // namespace everport

int main(int argc, char** argv) {
  const std::string mode = argc == 4 ? argv[3] : "";
  if (mode != "echo" && mode != "stream" && !mode.starts_with("tap:"))
    return std::fprintf(stderr, "usage: vduse_device NAME PAIRS echo|stream|tap:INTERFACE\n"), 2;
  const std::string prefix = std::string("--file-prefix=") + argv[1];
  std::vector<std::string> args = {argv[0],
                                   "--no-huge",
                                   "-m",
                                   "64",
                                   "--no-shconf",
                                   "--no-pci",
                                   "--no-telemetry",
                                   "--log-level=warning",
                                   "--lcores=0@(0-3)",
                                   prefix};
  std::vector<char*> eal;
  for (std::string& arg : args) eal.push_back(arg.data());
  if (rte_eal_init(static_cast<int>(eal.size()), eal.data()) < 0) return 1;
  return everport::Main(argv[1], static_cast<unsigned>(std::stoul(argv[2])), mode);
}
