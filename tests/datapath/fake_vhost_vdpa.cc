#include "tests/datapath/fake_vhost_vdpa.h"

#define VIRTIO_RING_NO_LEGACY  // what it leaves out is not C++
#include <linux/vhost.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "backend/datapath/virtio_net_abi.h"

namespace everport {
namespace {

constexpr int kFd = 1000000;  // nobody's
constexpr auto kPatience = std::chrono::seconds(10);

template <typename T>
int Answer(void* argument, T value) {
  std::memcpy(argument, &value, sizeof value);
  return 0;
}
template <typename T>
T Asked(const void* argument) {
  T value;
  std::memcpy(&value, argument, sizeof value);
  return value;
}
UniqueFd DupOf(int fd) {
  return UniqueFd(fd < 0 ? -1 : ::dup(fd));
}

}  // namespace

FakeVhostVdpa::FakeVhostVdpa() : watch_(::eventfd(0, EFD_NONBLOCK)) {}

FakeVhostVdpa::~FakeVhostVdpa() {
  {
    const std::lock_guard lock(mutex_);
    ending_ = true;
  }
  for (std::thread* thread : {&control_, &transmit_}) {
    if (thread->joinable()) thread->join();
  }
}

int FakeVhostVdpa::Enter(std::unique_lock<std::mutex>& lock, const std::string& call) {
  const std::string name = call.substr(0, call.find(' '));
  state_.calls.push_back(call);
  changed_.notify_all();
  if (state_.hangs[name]) {
    hanging_ = name;
    changed_.notify_all();
    changed_.wait(lock, [&] { return !state_.hangs[name]; });
    hanging_.clear();
  }
  const auto error = state_.errors.find(name);
  return error == state_.errors.end() ? 0 : -error->second;
}

int FakeVhostVdpa::Open(const std::string&) {
  std::unique_lock lock(mutex_);
  if (const int error = Enter(lock, "OPEN"); error < 0) return error;
  ++state_.open;
  return kFd;
}

void FakeVhostVdpa::Close(int) {
  std::unique_lock lock(mutex_);
  Enter(lock, "CLOSE");
  state_.status = 0;
  ++state_.resets;
  state_.maps.clear();
  state_.rings.clear();
  ++state_.closed;
  changed_.notify_all();
}

bool FakeVhostVdpa::Present(int) {
  const std::lock_guard lock(mutex_);
  return state_.present;
}

int FakeVhostVdpa::Watch(const std::string&) {
  return ::dup(watch_.get());
}

int FakeVhostVdpa::Write(int, const void* data, size_t bytes) {
  vhost_msg_v2 message;
  if (bytes != sizeof message) return -EINVAL;
  std::memcpy(&message, data, sizeof message);
  std::unique_lock lock(mutex_);
  const auto& tlb = message.iotlb;
  switch (tlb.type) {
    case VHOST_IOTLB_BATCH_BEGIN:
      return Enter(lock, "BATCH_BEGIN");
    case VHOST_IOTLB_BATCH_END:
      return Enter(lock, "BATCH_END");
    case VHOST_IOTLB_UPDATE: {
      const int error = Enter(lock, absl::StrCat("MAP ", tlb.iova));
      if (error == 0) state_.maps[tlb.iova] = {tlb.size, tlb.uaddr};
      return error;
    }
    case VHOST_IOTLB_INVALIDATE: {
      const int error = Enter(lock, absl::StrCat("UNMAP ", tlb.iova));
      state_.maps.erase(tlb.iova);
      return error;
    }
    default:
      return -EINVAL;
  }
}

int FakeVhostVdpa::RingIoctl(unsigned long request, void* argument, std::unique_lock<std::mutex>& lock) {
  const auto index = Asked<uint32_t>(argument);
  if (index >= state_.queues) return -ENOBUFS;
  const auto state = Asked<vhost_vring_state>(argument);  // the shortest; others are read below
  const auto note = [&](const char* name) { return Enter(lock, absl::StrCat(name, " ", index)); };
  int error = 0;
  Ring& ring = state_.rings[index];
  switch (request) {
    case VHOST_SET_VRING_NUM:
      if ((error = note("NUM")) == 0) ring.num = state.num;
      return error;
    case VHOST_SET_VRING_BASE:
      if ((error = note("BASE")) == 0) ring.base = state.num;
      return error;
    case VHOST_VDPA_SET_VRING_ENABLE:
      if ((error = note("ENABLE")) == 0) ring.enabled = state.num != 0;
      return error;
    case VHOST_GET_VRING_BASE: {
      if ((error = note("GET_BASE")) < 0) return error;
      const auto position = state_.positions.find(index);
      return Answer(argument,
                    vhost_vring_state{index, position == state_.positions.end() ? ring.base : position->second});
    }
    case VHOST_SET_VRING_ADDR: {
      const auto address = Asked<vhost_vring_addr>(argument);
      if ((error = note("ADDR")) < 0) return error;
      ring.desc = address.desc_user_addr;
      ring.avail = address.avail_user_addr;
      ring.used = address.used_user_addr;
      return 0;
    }
    case VHOST_SET_VRING_KICK:
      if ((error = note(state.num == ~0u ? "NO_KICK" : "KICK")) == 0) ring.kick_fd = DupOf(static_cast<int>(state.num));
      ring.kick = ring.kick_fd.valid();
      return error;
    case VHOST_SET_VRING_CALL:
      if ((error = note(state.num == ~0u ? "NO_CALL" : "CALL")) == 0) ring.call_fd = DupOf(static_cast<int>(state.num));
      ring.call = ring.call_fd.valid();
      return error;
    default:
      return -ENOTTY;
  }
}

int FakeVhostVdpa::Ioctl(int, unsigned long request, void* argument) {
  std::unique_lock lock(mutex_);
  State& s = state_;
  int error = 0;
  switch (request) {
    case VHOST_VDPA_GET_DEVICE_ID:
      return (error = Enter(lock, "DEVICE_ID")) < 0 ? error : Answer(argument, s.device_id);
    case VHOST_GET_BACKEND_FEATURES:
      return Answer(argument, s.backend_features);
    case VHOST_SET_BACKEND_FEATURES:
      s.backend_acked = Asked<uint64_t>(argument);
      return (s.backend_acked & ~s.backend_features) ? -EOPNOTSUPP : 0;
    case VHOST_SET_OWNER:
      return Enter(lock, "OWNER");
    case VHOST_GET_FEATURES:
      return Answer(argument, s.features);
    case VHOST_SET_FEATURES:
      if ((error = Enter(lock, "FEATURES")) == 0) s.acked = Asked<uint64_t>(argument);
      return error;
    case VHOST_VDPA_GET_VRING_NUM:
      return Answer(argument, s.ring_size);
    case VHOST_VDPA_GET_VQS_COUNT:
      return (error = Enter(lock, "VQS_COUNT")) < 0 ? error : Answer(argument, s.queues);
    case VHOST_VDPA_GET_IOVA_RANGE:
      return Answer(argument, vhost_vdpa_iova_range{0, s.last_iova});
    case VHOST_VDPA_GET_STATUS:
      return (error = s.errors["GET_STATUS"]) ? -error : Answer(argument, s.status);
    case VHOST_VDPA_SET_STATUS: {
      auto status = Asked<uint8_t>(argument);
      if ((error = Enter(lock, absl::StrCat(status == 0 ? "RESET" : "STATUS", status == 0 ? "" : " ",
                                            status == 0 ? "" : std::to_string(status)))) < 0)
        return error;
      if (s.acked & s.refused_features) status = static_cast<uint8_t>(status & ~virtio_net::kFeaturesOk);
      s.status = status;
      if (status == 0) ++s.resets;
      return 0;
    }
    case VHOST_VDPA_SET_CONFIG_CALL:
      if ((error = Enter(lock, "CONFIG_CALL")) == 0) s.config_call = DupOf(Asked<int>(argument));
      return error;
    case VHOST_VDPA_SUSPEND:
      return Enter(lock, "SUSPEND");
    case VHOST_VDPA_GET_CONFIG: {
      uint8_t config[12] = {0x52, 0x54, 0, 0, 0, 9};
      std::memcpy(config + virtio_net::kConfigStatus, &s.link, 2);
      std::memcpy(config + virtio_net::kConfigMaxVirtqueuePairs, &s.max_queue_pairs, 2);
      const auto asked = Asked<vhost_vdpa_config>(argument);
      if (asked.off + asked.len > sizeof config) return -E2BIG;
      std::memcpy(static_cast<vhost_vdpa_config*>(argument)->buf, config + asked.off, asked.len);
      return 0;
    }
    default:
      return RingIoctl(request, argument, lock);
  }
}

void FakeVhostVdpa::Hang(const std::string& call) {
  With([&](State& s) { s.hangs[call] = true; });
}

void FakeVhostVdpa::Release(const std::string& call) {
  With([&](State& s) { s.hangs[call] = false; });
  changed_.notify_all();
}

bool FakeVhostVdpa::AwaitHanging(const std::string& call) {
  std::unique_lock lock(mutex_);
  return changed_.wait_for(lock, kPatience, [&] { return hanging_ == call; });
}

bool FakeVhostVdpa::Await(const std::function<bool(const State&)>& condition) {
  std::unique_lock lock(mutex_);
  return changed_.wait_for(lock, kPatience, [&] { return condition(state_); });
}

void FakeVhostVdpa::SignalConfig() {
  With([](State& s) { ::eventfd_write(s.config_call.get(), 1); });
}

void FakeVhostVdpa::Remove() {
  With([](State& s) { s.present = false; });
  ::eventfd_write(watch_.get(), 1);
}

void FakeVhostVdpa::AnswerControl(uint32_t index, int ack) {
  // Descriptors 0, 1, 2 are header, number of pairs, answer.
  control_ = std::thread([this, index, ack] {
    Serve(index, [this, ack](virtio_net::Desc* desc, uint16_t) {
      control_pairs_.push_back(*reinterpret_cast<uint16_t*>(Address(desc[1].addr)));
      if (ack < 0) return false;
      *Address(desc[2].addr) = static_cast<uint8_t>(ack);
      return true;
    });
  });
}

void FakeVhostVdpa::TakeFrames(uint32_t index) {
  transmit_ = std::thread([this, index] {
    Serve(index, [this](virtio_net::Desc* desc, uint16_t head) {
      const uint8_t* const bytes = Address(desc[head].addr);
      frames_.emplace_back(bytes + virtio_net::kHeaderBytes, bytes + desc[head].len);
      return true;
    });
  });
}

std::vector<std::vector<uint8_t>> FakeVhostVdpa::frames() const {
  const std::lock_guard lock(mutex_);
  return frames_;
}

void FakeVhostVdpa::Serve(uint32_t index, const std::function<bool(virtio_net::Desc* desc, uint16_t head)>& work) {
  uint16_t seen = 0;
  unsigned resets = 0;  // that it has seen: the device may be started anew before this looks again
  for (std::unique_lock lock(mutex_); !ending_; changed_.wait_for(lock, std::chrono::milliseconds(1))) {
    if (std::exchange(resets, state_.resets) != state_.resets) seen = 0;
    if (!(state_.status & virtio_net::kDriverOk)) continue;
    Ring& ring = state_.rings[index];
    auto* avail = reinterpret_cast<uint16_t*>(Address(ring.avail));
    auto* used = reinterpret_cast<uint16_t*>(Address(ring.used));
    auto* desc = reinterpret_cast<virtio_net::Desc*>(Address(ring.desc));
    if (!avail || !used || !desc || !ring.enabled || __atomic_load_n(avail + 1, __ATOMIC_ACQUIRE) == seen) continue;
    if (!work(desc, avail[2 + seen++ % ring.num])) continue;
    __atomic_store_n(used + 1, seen, __ATOMIC_RELEASE);
    ::eventfd_write(ring.call_fd.get(), 1);
  }
}

std::vector<uint16_t> FakeVhostVdpa::control_pairs() const {
  const std::lock_guard lock(mutex_);
  return control_pairs_;
}

uint8_t* FakeVhostVdpa::Address(uint64_t iova) {
  for (const auto& [start, map] : state_.maps) {
    if (iova >= start && iova - start < map.first) return reinterpret_cast<uint8_t*>(map.second + (iova - start));
  }
  return nullptr;
}

}  // namespace everport
