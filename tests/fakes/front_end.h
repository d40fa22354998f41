#pragma once

// A vhost-user front-end of our own: QEMU and the guest's virtio-net driver in one object, step by step, so that a test
// can stop half way through a handshake, leave steps out, reorder them, or send what it likes through socket().
// Single-threaded; nothing here waits except Connect/Run (bounded by reply_timeout) and the Wait functions.

#include <sys/mman.h>

#include <cstdint>
#include <cstring>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "backend/base/unique_fd.h"
#include "migration/feature_contract.h"
#include "tests/fakes/guest_memory.h"
#include "tests/fakes/net_queue.h"
#include "tests/fakes/vhost_socket.h"

namespace everport::fakes {

struct FrontEndOptions {
  std::string socket = {};  // path; created by Listen
  unsigned queue_pairs = 1;
  uint16_t ring_size = 256;
  bool packed = false;
  bool mergeable = true;
  bool indirect = false;  // Rx buffers through indirect tables; for Tx see ChainShape
  bool in_order = false;
  bool event_idx = false;
  bool split_rx_header = false;  // Rx buffers of two descriptors
  uint64_t offloads = 0;         // further feature bits wanted, e.g. bit(kNetCsum)
  uint32_t max_frame = 1514;     // longest frame sent or received, bytes
  uint32_t rx_buffer = 2048;     // of one mergeable buffer, header included; unmergeable ones hold max_frame
  unsigned regions = 1;          // of guest memory, 1 … 8
  bool backend_req = true;       // sends SET_BACKEND_REQ_FD when offered, as QEMU does
  absl::Duration reply_timeout = absl::Seconds(5);
};

constexpr uint64_t Bit(unsigned bit) {
  return uint64_t{1} << bit;
}

// One message of the handshake.
struct Step {
  enum Kind {
    kGetFeatures,
    kGetProtocolFeatures,
    kSetProtocolFeatures,
    kGetQueueNum,
    kSetBackendReqFd,
    kSetOwner,
    kSetFeatures,
    kGetStatus,
    kSetStatus,  // value
    kSetMemTable,
    kSetNum,  // from here on: of a ring
    kSetBase,
    kSetAddr,
    kSetKick,
    kSetCall,
    kSetErr,
    kEnable,
    kDisable,
    kGetBase,
  };
  Kind kind;
  unsigned ring = 0;
  uint64_t value = 0;
};
std::string StepName(const Step& step);

// The order of QEMU 10: what it sends when the back-end connects, and when the guest's driver says DRIVER_OK.
std::vector<Step> QemuConnectSteps(unsigned queue_pairs);
std::vector<Step> QemuStartSteps(unsigned queue_pairs);
// And when the guest stops or resets: GET_VRING_BASE for each ring.
std::vector<Step> QemuStopSteps(unsigned queue_pairs);

class FrontEnd {
 public:
  explicit FrontEnd(FrontEndOptions options);
  ~FrontEnd();

  // The server socket. It stays until StopListening (or the end), as QEMU's does.
  void Listen();
  void StopListening() { listener_.reset(); }
  absl::Status Accept(absl::Duration timeout);

  // One step, or several; the error names the step. Replies are awaited where the specification has one, and where QEMU
  // asks for an acknowledgement.
  absl::Status Run(const Step& step);
  absl::Status Run(const std::vector<Step>& steps);

  // Listen (if not yet), accept, QemuConnectSteps, QemuStartSteps.
  absl::Status Connect(absl::Duration timeout);
  // The guest's driver starts on fresh rings (QemuStartSteps); or goes on with the rings it has (after Stop: `cont`).
  absl::Status StartDriver();
  absl::Status Resume();
  // QemuStopSteps; the bases that came back are kept for Resume.
  absl::Status Stop();
  // Closes the connection (QEMU dies, or its chardev reconnects). Rings and memory stay as they are.
  void Disconnect();
  // New, empty rings and buffers in the same memory: a guest that booted anew. Not while a device uses the old ones.
  void ResetDriver();

  // While running.
  absl::Status SendMemTable();  // SET_MEM_TABLE again, live
  absl::Status StartLog();      // SET_LOG_BASE with a memfd, then SET_FEATURES with LOG_ALL, ADDR with F_LOG
  absl::Status RenewLog();      // SET_LOG_BASE with another memfd; log() has what was marked in the one before
  absl::Status StopLog();       // SET_FEATURES without
  std::span<const uint8_t> log() const { return {log_map_, log_bytes_}; }  // one bit per 4 KiB page of guest physical
  void ClearLog() { std::memset(log_map_, 0, log_bytes_); }                // nobody may be writing to the guest
  absl::Status SendRarp(const uint8_t mac[6]);
  absl::Status SetMtu(uint16_t mtu);

  // A request with its answer: replies of those that have one; the acknowledgement if need_reply.
  absl::StatusOr<vhost_user::Message> Ask(vhost_user::Request request, std::span<const uint8_t> payload = {});
  template <typename T>
  absl::Status Tell(vhost_user::Request request, const T& value, std::span<const int> fds = {},
                    bool acknowledge = false) {
    return TellBytes(request, {reinterpret_cast<const uint8_t*>(&value), sizeof value}, fds, acknowledge);
  }
  absl::Status TellBytes(vhost_user::Request request, std::span<const uint8_t> payload, std::span<const int> fds = {},
                         bool acknowledge = false);

  // The driver. Queue pair i: guest receive ring 2i, guest transmit ring 2i+1. There after the first kSetFeatures.
  RxQueue& rx(unsigned pair) { return *rx_[pair]; }
  TxQueue& tx(unsigned pair) { return *tx_[pair]; }
  DriverRing& ring(unsigned index) { return index % 2 == 0 ? rx_[index / 2]->ring() : tx_[index / 2]->ring(); }
  // Publishes what was added and kicks if the device asks for it.
  void FlushRx(unsigned pair);
  void FlushTx(unsigned pair);
  void Kick(unsigned ring);  // whatever the suppression says
  // Waits for an interrupt of the ring (its call eventfd) and clears it. False: none came by then.
  bool WaitCall(unsigned ring, absl::Duration timeout);
  int call_fd(unsigned ring) const { return call_[ring].get(); }
  uint64_t kicks() const { return kicks_; }

  VhostSocket& socket() { return socket_; }
  GuestMemory& memory() { return *memory_; }
  const FrontEndOptions& options() const { return options_; }
  uint64_t offered_features() const { return offered_; }
  uint64_t offered_protocol_features() const { return offered_protocol_; }
  uint64_t features() const { return features_; }
  uint64_t queue_num() const { return queue_num_; }
  uint32_t base(unsigned ring) const { return bases_[ring]; }
  void set_base(unsigned ring, uint32_t base) { bases_[ring] = base; }
  // Sums over all rings, for messages and assertions.
  RingAccount TotalAccount() const;

 private:
  uint64_t WantedFeatures() const;
  void MakeDriver();
  absl::Status RunRingStep(const Step& step);
  absl::StatusOr<uint64_t> AskU64(vhost_user::Request request);
  absl::Status SetFeatures(uint64_t features);
  absl::Status SetAddr(unsigned ring, bool acknowledge);
  void MakeLog();
  absl::Status SendLog();
  bool reply_ack() const { return protocol_ & Bit(vhost_user::kProtocolReplyAck); }

  FrontEndOptions options_;
  std::unique_ptr<GuestMemory> memory_;
  std::unique_ptr<VhostListener> listener_;
  VhostSocket socket_;
  UniqueFd backend_req_;
  std::vector<UniqueFd> kick_, call_, err_;  // by ring
  std::vector<uint32_t> bases_;
  std::vector<std::unique_ptr<RxQueue>> rx_;
  std::vector<std::unique_ptr<TxQueue>> tx_;
  uint64_t offered_ = 0, offered_protocol_ = 0, features_ = 0, protocol_ = 0, queue_num_ = 0;
  uint64_t kicks_ = 0;
  bool logging_ = false;
  UniqueFd log_fd_;
  uint8_t* log_map_ = nullptr;
  size_t log_bytes_ = 0;
};

}  // namespace everport::fakes
