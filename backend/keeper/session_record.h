#pragma once

// All that a front-end has told us, as one plain value. A daemon is given a session by replaying it (replay_plan.h);
// it is the unit that a keeper will hand to its successor, hence the version and no state beside it.

#include <array>
#include <cstdint>
#include <optional>
#include <vector>

#include "backend/base/unique_fd.h"
#include "backend/keeper/control_protocol.h"
#include "backend/vhost_user/codec.h"
#include "backend/vhost_user/message.h"
#include "migration/feature_contract.h"

namespace everport {

struct RecordedRegion {
  vhost_user::MemoryRegion region;
  UniqueFd fd;
};

struct VringRecord {
  uint32_t num = 0;   // descriptors; 0: not told since the ring stopped
  uint32_t base = 0;  // as the front-end told it or the daemon left it: the base of a ring that is not started
  std::optional<vhost_user::VringAddr> addr;
  // The messages came; without a descriptor they mean polling.
  bool kick_told = false, call_told = false, err_told = false;
  UniqueFd kick, call, err;
  bool enabled = false;

  // vhost-user.rst "Ring states": started by a kick, which we cannot see; the kick descriptor's arrival stands for it.
  bool started() const { return kick_told; }
};

struct SessionRecord {
  static constexpr uint32_t kVersion = 1;
  uint32_t version = kVersion;
  bool owner = false;
  bool features_told = false;
  uint64_t features = 0;           // acked
  uint64_t protocol_features = 0;  // acked
  std::vector<RecordedRegion> memory;
  Postcopy postcopy = Postcopy::kNone;
  // While listening: where the daemon has the regions mapped, as told to the front-end; empty: not told yet.
  std::vector<uint64_t> postcopy_bases;
  std::optional<vhost_user::LogBase> log;
  UniqueFd log_fd;
  uint16_t mtu = 0;  // 0: not told
  uint8_t status = 0;
  std::array<uint8_t, vhost_user::kConfigSpace> config{};
  UniqueFd backend_req;
  std::array<VringRecord, vhost_user::kMaxVrings> vrings;

  bool Has(VirtioFeature feature) const { return features >> feature & 1; }
  bool HasProtocol(vhost_user::ProtocolFeature feature) const { return protocol_features >> feature & 1; }
  bool listening() const { return postcopy == Postcopy::kListening; }
  bool packed() const { return Has(kRingPacked); }
  bool any_started() const {
    for (const VringRecord& vring : vrings)
      if (vring.started()) return true;
    return false;
  }
};

}  // namespace everport
