#include "backend/keeper/session.h"

#include <algorithm>
#include <array>
#include <utility>

#include "absl/strings/str_cat.h"
#include "backend/keeper/memory_table.h"
#include "backend/keeper/ring_recovery.h"

namespace everport {

using vhost_user::MakeMessage;
using vhost_user::MakeReply;
using vhost_user::Message;
using vhost_user::Request;
using vhost_user::VringState;

Session::Session(PortSpec spec, FeatureContract contract, IndexPage* page, GuestFiles* files)
    : spec_(std::move(spec)), contract_(std::move(contract)), page_(page), files_(files) {}

Actions Session::FrontendConnected() {
  connected_ = true;
  UpdateState("");
  if (link_ == Link::kIdle) BeginReplay();
  return Take();
}

Actions Session::FrontendMessage(Message message) {
  if (!connected_ || frontend_paused()) return Take();
  const Pending answer{message.request, message.need_reply(), 0};
  const Handled outcome = Handle(message);
  if (!outcome.ok()) {
    EndSession(std::string(outcome.status().message()));
    Put(CloseFrontend{reason_});
    return Take();
  }
  switch (*outcome) {
    case Outcome::kAnswered:
      break;
    case Outcome::kRecorded:
      Acknowledge(answer.request, answer.need_reply, 0);
      break;
    case Outcome::kRefused:
      Acknowledge(answer.request, answer.need_reply, 1);
      break;
    case Outcome::kResync:
      if (link_ != Link::kNone) {
        Put(CloseDaemon{absl::StrCat("to come anew after ", vhost_user::RequestText(answer.request)), false});
        LoseDaemon();
        if (daemon_welcome()) {
          pending_ = answer;
          Arm();
          break;
        }
      }
      Acknowledge(answer.request, answer.need_reply, 0);
      break;
  }
  UpdateState(reason_);
  return Take();
}

Actions Session::FrontendGone(const std::string& reason) {
  if (connected_) EndSession(reason);
  return Take();
}

Actions Session::Deadline() {
  if (!std::exchange(deadline_armed_, false)) return Take();
  if (link_ == Link::kReplaying || link_ == Link::kSynced) {
    const std::string owed =
        expected_.empty() ? "a reply" : "a reply to " + vhost_user::RequestText(expected_.front().request);
    const int ms = record_.listening() ? kPostcopyDeadlineMs : kReplyDeadlineMs;
    DropDaemon(absl::StrCat("the daemon owes ", owed, " for ", ms, " ms"), true);
  } else if (pending_) {
    Settle(*std::exchange(pending_, std::nullopt), 0);
  }
  return Take();
}

// What the front-end waited for has come to an end: the daemon has done it, or there is none (any more) to do it.
void Session::Settle(const Pending& pending, uint64_t result) {
  if (pending.request == Request::kPostcopyAdvise) return AnswerAdvise();
  if (pending.request == Request::kSetMemTable && record_.listening()) return AnswerMemory();
  if (pending.request != Request::kGetVringBase) return Acknowledge(pending.request, pending.need_reply, result);
  VringRecord& vring = record_.vrings[pending.ring];
  if (vring.started()) StopRing(pending.ring, BaseFromMemory(pending.ring));
  Put(SendToFrontend{
      MakeMessage(Request::kGetVringBase, vhost_user::kFlagReply, VringState{pending.ring, vring.base})});
  UpdateState(reason_);
}

void Session::Acknowledge(Request request, bool need_reply, uint64_t result) {
  const vhost_user::RequestRule* rule = vhost_user::FindRule(request);
  const bool due =
      (rule && rule->always_answered) || (need_reply && record_.HasProtocol(vhost_user::kProtocolReplyAck));
  if (due) Put(SendToFrontend{MakeReply(request, result)});
}

// vhost-user.rst, "Ring states". The front-end tells num, address and kick anew before it starts the ring again.
void Session::StopRing(unsigned ring, uint32_t base) {
  VringRecord& vring = record_.vrings[ring];
  const uint32_t position = base & 0xffff;
  // Packed: available and used position, which are the same at rest.
  vring.base = record_.packed() ? position | position << 16 : position;
  vring.num = 0;
  vring.addr.reset();
  vring.kick.reset();
  vring.kick_told = false;
  fetched_rings_ &= ~(1u << ring);
  ClearHead(ring);
}

void Session::ClearHead(unsigned ring) {
  page_->vrings[ring].head.store(0, std::memory_order_release);
  page_->vrings[ring].range_count.store(0, std::memory_order_release);
}

void Session::EndSession(const std::string& reason) {
  pending_.reset();
  connected_ = false;
  unknown_noted_ = false;
  if (link_ == Link::kReplaying || link_ == Link::kSynced) {
    Put(CloseDaemon{"the front-end's session ended", false});
    LoseDaemon();
  }
  if (std::exchange(deadline_armed_, false)) Put(DisarmDeadline{});
  record_ = SessionRecord{};
  ForgetPostcopy();
  ++page_->generation;
  for (unsigned ring = 0; ring < kIndexPageVrings; ++ring)
    if (page_->vrings[ring].head.load(std::memory_order_relaxed) != 0 ||
        page_->vrings[ring].range_count.load(std::memory_order_relaxed) != 0)
      ClearHead(ring);
  UpdateState(reason);
}

void Session::UpdateState(const std::string& reason) {
  SessionState state = connected_ ? SessionState::kConnected : SessionState::kWaiting;
  for (unsigned ring = 0; ring + 1 < vrings() && connected_; ring += 2)
    if (record_.vrings[ring].started() && record_.vrings[ring + 1].started()) state = SessionState::kRunning;
  const std::string& told = record_.listening() && link_ == Link::kNone ? WhyHeldBack() : reason;
  if (state == state_ && told == reason_ && postcopy() == told_postcopy_) return;
  state_ = state;
  reason_ = told;
  told_postcopy_ = postcopy();
  Put(StateChanged{state_, reason_, told_postcopy_});
}

uint32_t Session::BaseFromMemory(unsigned ring) {
  const VringRecord& vring = record_.vrings[ring];
  // Where the ring's pages may be missing, no daemon has served it yet: it stands as it was told. Where they are here,
  // looking at them, and putting back what a daemon left, adds none (pages that were added would be taken for fetched).
  if (record_.listening() && !(fetched_rings_ >> ring & 1)) return vring.base;
  const absl::StatusOr<uint16_t> base = record_.packed() ? PackedBase(ring) : SplitBase(vring);
  if (base.ok()) return *base;
  Put(Note{absl::StrCat("ring ", ring,
                        ": its position is as the front-end told it: ", std::string(base.status().message()))});
  return vring.base;
}

absl::StatusOr<uint16_t> Session::SplitBase(const VringRecord& vring) {
  uint16_t idx = 0;
  const auto place = Locate(record_.memory, vring.addr->used_user_addr + kSplitUsedIdxOffset, sizeof idx);
  if (!place) return absl::InternalError("used ring outside guest memory");
  if (absl::Status status = files_->Read(place->fd, place->offset, &idx, sizeof idx); !status.ok()) return status;
  return idx;
}

absl::StatusOr<uint16_t> Session::PackedBase(unsigned ring) {
  const VringRecord& vring = record_.vrings[ring];
  IndexPageVring& journal = page_->vrings[ring];
  const uint64_t head = journal.head.load(std::memory_order_acquire);
  if (!IndexPageHeadValid(head)) return static_cast<uint16_t>(vring.base);
  const unsigned chains = IndexPageHeadChains(head);
  if (chains > kIndexPageChains) return absl::InternalError("index page: more chains than it holds");
  const auto place = [&](uint16_t slot) {
    return Locate(record_.memory, vring.addr->desc_user_addr + uint64_t{slot} * kPackedDescSize + kPackedTailOffset,
                  sizeof(PackedTail));
  };
  const bool one_used = record_.Has(kInOrder) && ring % 2 == 1;  // odd rings: the guest transmits
  const auto recovery =
      RecoverPacked({journal.chains, chains}, IndexPageHeadPosition(head), static_cast<uint16_t>(vring.num), one_used,
                    [&](uint16_t slot) -> absl::StatusOr<PackedTail> {
                      PackedTail tail{};
                      const auto at = place(slot);
                      if (!at) return absl::InternalError("descriptor outside guest memory");
                      if (absl::Status s = files_->Read(at->fd, at->offset, &tail, sizeof tail); !s.ok()) return s;
                      return tail;
                    });
  if (!recovery.ok()) return recovery.status();
  for (auto repair = recovery->repairs.rbegin(); repair != recovery->repairs.rend(); ++repair) {
    const auto at = place(repair->slot);
    if (absl::Status s = files_->Write(at->fd, at->offset, &repair->tail, sizeof repair->tail); !s.ok()) return s;
    MarkDirty({at->guest_phys_addr, sizeof repair->tail});
  }
  // From here on the ring is at rest: a second look finds the same.
  journal.head.store(IndexPageHead(recovery->position, 0), std::memory_order_release);
  return recovery->position;
}

void Session::MarkDirty(const GuestRange& range) {
  if (!record_.log || !record_.Has(kVhostLogAll)) return;
  constexpr uint64_t kPiece = 4096;
  static constexpr std::array<uint8_t, kPiece> kAllSet = [] {
    std::array<uint8_t, kPiece> bytes{};
    bytes.fill(0xff);
    return bytes;
  }();
  const std::optional<LogBytes> marks = LogBytesOf(range, record_.log->mmap_size);
  absl::Status status;
  for (uint64_t at = marks ? marks->first : 1; marks && at <= marks->last && status.ok(); at += kPiece) {
    const uint64_t bytes = std::min(kPiece, marks->last - at + 1);
    status = files_->Write(record_.log_fd.get(), record_.log->mmap_offset + at, kAllSet.data(), bytes);
  }
  if (!status.ok()) Put(Note{absl::StrCat("dirty log: ", std::string(status.message()))});
}

// What the daemon may have written and not marked when its link was lost. It marks a burst's writes one after the
// other, after having written; what they can be is on the index page. The rings' own parts go unlooked at.
void Session::MarkUnfinished() {
  if (!record_.log || !record_.Has(kVhostLogAll)) return;
  for (unsigned ring = 0; ring < vrings(); ++ring) {
    const VringRecord& vring = record_.vrings[ring];
    if (!vring.started() || !vring.addr) continue;
    const auto desc = Locate(record_.memory, vring.addr->desc_user_addr, 1);
    const auto used = Locate(record_.memory, vring.addr->used_user_addr, 1);
    if (desc && used)
      for (const GuestRange& part :
           WrittenRingParts(record_.packed(), vring.num, desc->guest_phys_addr, used->guest_phys_addr))
        MarkDirty(part);
    const IndexPageVring& journal = page_->vrings[ring];
    const uint64_t ranges = journal.range_count.load(std::memory_order_acquire);
    for (uint64_t i = 0; i < std::min<uint64_t>(ranges, kIndexPageRanges); ++i)
      MarkDirty({journal.ranges[i].guest_phys_addr, std::min(journal.ranges[i].bytes, kIndexPageRangeBytes)});
  }
}

}  // namespace everport
