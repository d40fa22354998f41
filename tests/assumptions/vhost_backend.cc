#include "tests/assumptions/vhost_backend.h"

#include <rte_eal.h>
#include <rte_errno.h>
#include <rte_log.h>
#include <rte_mbuf.h>
#include <rte_vhost.h>

#include <algorithm>
#include <array>
#include <condition_variable>
#include <cstring>
#include <mutex>

#include "tests/fakes/require.h"

namespace everport::assumptions {
namespace {

// One back-end at a time is enough for these tests.
struct State {
  std::mutex mutex;
  std::condition_variable changed;
  std::vector<Event> events;
  int vid = -1;
};
State& state() {
  static auto* instance = new State;  // librte_vhost's threads live until the process ends
  return *instance;
}

void Note(Event event, int vid) {
  const std::lock_guard lock(state().mutex);
  state().events.push_back(event);
  state().vid = vid;
  state().changed.notify_all();
}

int NewDevice(int vid) {
  Note({Event::kNewDevice}, vid);
  return 0;
}
void DestroyDevice(int vid) {
  Note({Event::kDestroyDevice}, vid);
}
int VringState(int vid, uint16_t vring, int on) {
  Note({on != 0 ? Event::kVringOn : Event::kVringOff, vring}, vid);
  return 0;
}
int NewConnection(int vid) {
  Note({Event::kNewConnection}, vid);
  return 0;
}
void DestroyConnection(int vid) {
  Note({Event::kDestroyConnection}, vid);
}

const rte_vhost_device_ops kOps = [] {
  rte_vhost_device_ops ops{};
  ops.new_device = NewDevice;
  ops.destroy_device = DestroyDevice;
  ops.vring_state_changed = VringState;
  ops.new_connection = NewConnection;
  ops.destroy_connection = DestroyConnection;
  return ops;
}();

rte_mempool* Pool() {
  static rte_mempool* const pool = [] {
    std::array<std::string, 9> args = {"test",        "--no-huge",      "-m",       "128",    "--no-pci",
                                       "--no-shconf", "--no-telemetry", "--lcores", "0@(0-1)"};
    std::array<char*, 9> argv{};
    std::transform(args.begin(), args.end(), argv.begin(), [](std::string& arg) { return arg.data(); });
    rte_log_set_global_level(RTE_LOG_ERR);
    FAKES_REQUIRE(rte_eal_init(static_cast<int>(argv.size()), argv.data()) >= 0);
    rte_mempool* made = rte_pktmbuf_pool_create("pool", 4095, 0, 0, RTE_MBUF_DEFAULT_BUF_SIZE, SOCKET_ID_ANY);
    FAKES_REQUIRE(made != nullptr);
    return made;
  }();
  return pool;
}

}  // namespace

VhostBackend::VhostBackend(const std::string& socket) : socket_(socket) {
  Pool();
  {
    const std::lock_guard lock(state().mutex);
    state().events.clear();
    state().vid = -1;
  }
  FAKES_REQUIRE(rte_vhost_driver_register(socket.c_str(), RTE_VHOST_USER_CLIENT) == 0);
  FAKES_REQUIRE(rte_vhost_driver_callback_register(socket.c_str(), &kOps) == 0);
  FAKES_REQUIRE(rte_vhost_driver_start(socket.c_str()) == 0);
}

VhostBackend::~VhostBackend() {
  rte_vhost_driver_unregister(socket_.c_str());
}

unsigned VhostBackend::Count(Event::Kind kind) const {
  const std::lock_guard lock(state().mutex);
  return static_cast<unsigned>(std::count_if(state().events.begin(), state().events.end(),
                                             [&](const Event& event) { return event.kind == kind; }));
}

bool VhostBackend::WaitFor(Event::Kind kind, unsigned count, absl::Duration timeout) const {
  std::unique_lock lock(state().mutex);
  return state().changed.wait_for(lock, absl::ToChronoNanoseconds(timeout), [&] {
    return std::count_if(state().events.begin(), state().events.end(),
                         [&](const Event& event) { return event.kind == kind; }) >= count;
  });
}

int VhostBackend::vid() const {
  const std::lock_guard lock(state().mutex);
  return state().vid;
}

unsigned VhostBackend::Dequeue(unsigned most) {
  std::array<rte_mbuf*, 32> frames;
  const uint16_t n =
      rte_vhost_dequeue_burst(vid(), 1, Pool(), frames.data(), static_cast<uint16_t>(std::min(most, 32u)));
  rte_pktmbuf_free_bulk(frames.data(), n);
  return n;
}

unsigned VhostBackend::Enqueue(unsigned count, unsigned bytes) {
  std::array<rte_mbuf*, 32> frames;
  FAKES_REQUIRE(count <= frames.size());
  for (unsigned i = 0; i < count; ++i) {
    frames[i] = rte_pktmbuf_alloc(Pool());
    FAKES_REQUIRE(frames[i] != nullptr);
    std::memset(rte_pktmbuf_append(frames[i], static_cast<uint16_t>(bytes)), 0x5a, bytes);
  }
  const uint16_t n = rte_vhost_enqueue_burst(vid(), 0, frames.data(), static_cast<uint16_t>(count));
  rte_pktmbuf_free_bulk(frames.data(), count);
  return n;
}

VhostBackend::Base VhostBackend::VringBase(unsigned vring) const {
  Base base;
  FAKES_REQUIRE(rte_vhost_get_vring_base(vid(), static_cast<uint16_t>(vring), &base.avail, &base.used) == 0);
  return base;
}

}  // namespace everport::assumptions
