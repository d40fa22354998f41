// A vDPA driver for tests, to be preloaded into everportd: it registers the device "fake-vdpa0" with librte_vhost when
// EAL has started, as the drivers of DPDK do when they have found theirs. Its device is a thread that works on the
// guest's split rings by their addresses and eventfds alone, as hardware would, with a packet socket for a wire.
//
// Environment: FAKE_VDPA_WIRE, the network interface; FAKE_VDPA_DIR, a folder with files that tell and are told:
//   calls     a line for each call of librte_vhost's
//   refuse    while it is there, the driver does not take a guest's rings
//   deaf      while it is there, the device does nothing
//   features  hex: what it offers, if not a little: no offloads, no packed rings, no event indices
#include <arpa/inet.h>
#include <dlfcn.h>
#include <linux/if_packet.h>
#define VIRTIO_RING_NO_LEGACY  // its inline functions are C
#include <linux/virtio_ring.h>
#include <net/ethernet.h>
#include <net/if.h>
#include <poll.h>
#include <rte_vdpa.h>
#include <rte_vhost.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "migration/feature_contract.h"

namespace {

// What drivers have in vdpa_driver.h and dev_driver.h, which are not installed; the same from DPDK 22.11 to 24.11.
struct Ops {
  int (*get_queue_num)(rte_vdpa_device*, uint32_t*);
  int (*get_features)(rte_vdpa_device*, uint64_t*);
  int (*get_protocol_features)(rte_vdpa_device*, uint64_t*);
  int (*dev_conf)(int vid);
  int (*dev_close)(int vid);
  int (*dev_cleanup)(int vid);
  int (*set_vring_state)(int vid, int vring, int state);
  int (*set_features)(int vid);
  void* others[12];  // may be null
};
struct BusDevice {
  void* next[2];
  const char* name;
  const char* bus_info;
  const void* driver;
  const void* bus;
  int numa_node;
  void* devargs;
};

std::string Path(const char* file) {
  const char* dir = std::getenv("FAKE_VDPA_DIR");
  return std::string(dir ? dir : ".") + "/" + file;
}
bool There(const char* file) {
  return access(Path(file).c_str(), F_OK) == 0;
}
template <typename... Values>
void Tell(Values... values) {
  std::ofstream calls(Path("calls"), std::ios::app);
  (calls << ... << values) << std::endl;
}

constexpr uint32_t kHeader = 12;      // virtio_net_hdr_mrg_rxbuf, virtio 1.2, 5.1.6
constexpr uint32_t kNumBuffers = 10;  // offset in it, little-endian

struct Ring {
  rte_vhost_vring at{};
  uint16_t next = 0;
  bool Available() const { return __atomic_load_n(&at.avail->idx, __ATOMIC_ACQUIRE) != next; }
  uint16_t Head() const { return at.avail->ring[next % at.size]; }
  void Use(uint16_t head, uint32_t written) {
    at.used->ring[next % at.size] = {head, written};
    __atomic_store_n(&at.used->idx, ++next, __ATOMIC_RELEASE);
    if (!(at.avail->flags & VRING_AVAIL_F_NO_INTERRUPT) && at.callfd >= 0) eventfd_write(at.callfd, 1);
  }
};

// What serves one guest, from dev_conf to dev_close. Never looks at a ring that it was not kicked for.
class Device {
 public:
  static std::unique_ptr<Device> Make(int vid) {
    std::unique_ptr<Device> device(new Device(vid));
    if (rte_vhost_get_mem_table(vid, &device->memory_) != 0) return nullptr;
    for (uint16_t vring = 0; vring < 2; ++vring) {
      Ring& ring = device->rings_[vring];
      uint16_t used = 0;
      if (rte_vhost_get_vhost_vring(vid, vring, &ring.at) != 0 ||
          rte_vhost_get_vring_base(vid, vring, &ring.next, &used) != 0)
        return nullptr;
      Tell("ring ", vring, " desc ", ring.at.desc != nullptr, " size ", ring.at.size, " base ", ring.next, " used ",
           used);
    }
    device->thread_ = std::thread([self = device.get()] { self->Run(); });
    return device;
  }
  ~Device() {
    stopping_ = true;
    eventfd_write(stop_, 1);
    if (thread_.joinable()) thread_.join();
    for (uint16_t vring = 0; vring < 2; ++vring)  // as drivers do; nobody reads it
      rte_vhost_set_vring_base(vid_, vring, rings_[vring].next, rings_[vring].next);
    free(memory_);
    close(wire_);
    close(stop_);
  }

 private:
  explicit Device(int vid) : vid_(vid) {
    sockaddr_ll address{};
    address.sll_family = AF_PACKET;
    address.sll_protocol = htons(ETH_P_ALL);
    address.sll_ifindex = static_cast<int>(if_nametoindex(std::getenv("FAKE_VDPA_WIRE")));
    const int on = 1;
    setsockopt(wire_, SOL_PACKET, PACKET_IGNORE_OUTGOING, &on, sizeof on);
    if (bind(wire_, reinterpret_cast<sockaddr*>(&address), sizeof address) != 0) std::perror("fake vdpa: wire");
  }

  void Run() {
    setpriority(PRIO_PROCESS, static_cast<id_t>(gettid()), -20);  // hardware waits for no scheduler
    pollfd fds[] = {{stop_, POLLIN, 0}, {rings_[1].at.kickfd, POLLIN, 0}, {wire_, POLLIN, 0}};
    while (!stopping_) {
      poll(fds, 3, 100);
      if (There("deaf")) {
        usleep(1000);
        continue;
      }
      eventfd_t kicks;
      if (fds[1].revents & POLLIN && eventfd_read(fds[1].fd, &kicks) == 0) Transmit();
      if (fds[2].revents & POLLIN) Receive();
    }
  }

  template <typename Visit>
  void ForEach(const Ring& ring, uint16_t head, Visit visit) {
    for (vring_desc desc = ring.at.desc[head];; desc = ring.at.desc[desc.next % ring.at.size]) {
      uint64_t length = desc.len;
      visit(reinterpret_cast<uint8_t*>(rte_vhost_va_from_guest_pa(memory_, desc.addr, &length)), length);
      if (!(desc.flags & VRING_DESC_F_NEXT)) return;
    }
  }

  void Transmit() {
    Ring& ring = rings_[1];
    while (!stopping_ && ring.Available()) {
      const uint16_t head = ring.Head();
      std::vector<uint8_t> frame;
      ForEach(ring, head,
              [&](const uint8_t* bytes, uint64_t length) { frame.insert(frame.end(), bytes, bytes + length); });
      while (send(wire_, frame.data() + kHeader, frame.size() - kHeader, 0) < 0 && !stopping_) usleep(100);
      ring.Use(head, 0);
    }
    if (ring.Available()) eventfd_write(ring.at.kickfd, 1);  // for who comes next
  }

  void Receive() {
    Ring& ring = rings_[0];
    uint8_t frame[2048];
    for (int burst = 0; burst < 32 && !stopping_; ++burst) {
      const ssize_t length = recv(wire_, frame + kHeader, sizeof frame - kHeader, MSG_DONTWAIT);
      if (length <= 0) return;
      if (!ring.Available()) continue;  // lost, as on any NIC
      std::memset(frame, 0, kHeader);
      frame[kNumBuffers] = 1;
      const uint16_t head = ring.Head();
      uint64_t done = 0;
      const uint64_t total = static_cast<uint64_t>(length) + kHeader;
      ForEach(ring, head, [&](uint8_t* bytes, uint64_t room) {
        const uint64_t part = std::min(room, total - done);
        std::memcpy(bytes, frame + done, part);
        done += part;
      });
      ring.Use(head, static_cast<uint32_t>(done));
    }
  }

  const int vid_;
  const int wire_ = socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC, 0), stop_ = eventfd(0, EFD_CLOEXEC);
  rte_vhost_memory* memory_ = nullptr;
  Ring rings_[2];
  std::atomic<bool> stopping_{false};
  std::thread thread_;
};

std::unique_ptr<Device> g_device;  // librte_vhost's event thread, and those that unregister: one at a time

int QueueNum(rte_vdpa_device*, uint32_t* pairs) {
  *pairs = 1;
  return 0;
}
int Features(rte_vdpa_device*, uint64_t* features) {
  constexpr std::array kBits = {everport::kVersion1,         everport::kAnyLayout,
                                everport::kNetMrgRxbuf,      everport::kVhostLogAll,
                                everport::kRingIndirectDesc, everport::kVhostUserProtocolFeatures};
  *features = 0;
  for (const unsigned bit : kBits) *features |= uint64_t{1} << bit;
  if (std::ifstream given(Path("features")); given) given >> std::hex >> *features;
  return 0;
}
int ProtocolFeatures(rte_vdpa_device*, uint64_t* features) {
  *features = ~uint64_t{0};
  return 0;
}
int Configure(int vid) {
  if (There("refuse")) {
    Tell("refused ", vid);
    return -1;
  }
  g_device = Device::Make(vid);
  Tell(g_device ? "configured " : "failed ", vid);
  return g_device ? 0 : -1;
}
int Close(int vid) {
  Tell("closed ", vid);
  g_device.reset();
  return 0;
}
int SetVringState(int, int, int) {
  return 0;
}
int SetFeatures(int) {
  return 0;
}

Ops g_ops = {QueueNum, Features, ProtocolFeatures, Configure, Close, nullptr, SetVringState, SetFeatures, {}};
BusDevice g_bus_device = {{}, "fake-vdpa0", nullptr, nullptr, nullptr, -1, nullptr};

}  // namespace

extern "C" {
rte_vdpa_device* rte_vdpa_register_device(BusDevice* device, Ops* ops);

__attribute__((visibility("default"))) int rte_eal_init(int argc, char** argv) {
  const auto real = reinterpret_cast<int (*)(int, char**)>(dlsym(RTLD_NEXT, "rte_eal_init"));
  const int result = real(argc, argv);
  if (result >= 0 && rte_vdpa_register_device(&g_bus_device, &g_ops) == nullptr) {
    std::fprintf(stderr, "fake vdpa: not registered\n");
    std::abort();
  }
  return result;
}
}
