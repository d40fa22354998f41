// Post-copy: the guest runs here while pages of its memory are still at its former host (vhost-user.rst, "Postcopy").
//
// Before memory is told (POSTCOPY_ADVISE) the daemon makes a userfaultfd and the front-end gets it; after that
// (POSTCOPY_LISTEN) the daemon registers the memory it is told with it, so that a page it finds missing is fetched by
// the front-end; POSTCOPY_END: all pages are here.
//
// A page comes but once: whoever touches a missing one in a mapping without such a registration gets one of zeros, and
// the true one is then refused by the kernel, which ends the guest. Hence
//  - the keeper looks at no part of guest memory that no daemon has been through (BaseFromMemory);
//  - a daemon that is lost is not replaced before the end: the front-end takes no second userfaultfd;
//  - no message of that time may fail for want of a daemon: the guest has left its former host for good.

#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "backend/keeper/session.h"

namespace everport {

using vhost_user::MakeMessage;
using vhost_user::MemoryRegion;
using vhost_user::Message;
using vhost_user::Request;

namespace {

absl::Status Broken(Request request, std::string_view what) {
  return absl::FailedPreconditionError(absl::StrCat(vhost_user::RequestText(request), ": ", std::string(what)));
}

}  // namespace

Session::Handled Session::OnPostcopyAdvise(Message& message) {
  if (record_.listening()) return Broken(message.request, "post-copy is under way");
  if (link_ == Link::kSynced && (daemon_protocol_ >> vhost_user::kProtocolPagefault & 1)) {
    // librte_vhost would forget, and keep open, the one that it has made.
    if (daemon_advised_) SendStep({Request::kPostcopyEnd});
    if (Forward(message, 0) == Outcome::kAnswered) return Outcome::kAnswered;
  }
  AnswerAdvise();
  return Outcome::kAnswered;
}

// Without a descriptor the front-end gives the migration up, before it begins: the guest stays where it is.
void Session::AnswerAdvise() {
  Message reply = MakeMessage(Request::kPostcopyAdvise, vhost_user::kFlagReply);
  if (userfaultfd_.valid()) {
    reply.fds.push_back(std::move(userfaultfd_));
    record_.postcopy = Postcopy::kAdvised;
  } else {
    record_.postcopy = Postcopy::kNone;
    Put(Note{absl::StrCat("POSTCOPY_ADVISE is refused: ",
                          link_ != Link::kSynced ? "no daemon is there"
                                                 : "the daemon has no userfaultfd; `everportctl doctor` tells why")});
  }
  Put(SendToFrontend{std::move(reply)});
  UpdateState(reason_);
}

Postcopy Session::postcopy() const {
  if (record_.postcopy == Postcopy::kAdvised && !record_.memory.empty()) return Postcopy::kNone;
  return record_.postcopy;
}

absl::Status Session::TakeUserfaultfd(Message& message) {
  const bool refused = message.fds.empty() && message.payload.size() == sizeof(uint64_t);
  if (refused) return absl::OkStatus();
  if (message.fds.size() != 1 || !message.payload.empty())
    return absl::InvalidArgumentError(absl::StrCat("the daemon's reply to POSTCOPY_ADVISE has ", message.payload.size(),
                                                   " bytes and ", message.fds.size(), " descriptors"));
  userfaultfd_ = std::move(message.fds[0]);
  daemon_advised_ = true;
  return absl::OkStatus();
}

Session::Handled Session::OnPostcopyListen(Message& message) {
  if (record_.listening()) return Outcome::kRecorded;
  if (record_.postcopy != Postcopy::kAdvised) return Broken(message.request, "without POSTCOPY_ADVISE");
  if (!record_.memory.empty()) return Broken(message.request, "after SET_MEM_TABLE");
  record_.postcopy = Postcopy::kListening;
  if (link_ == Link::kSynced && !daemon_advised_) {
    Put(CloseDaemon{"post-copy has begun, and the daemon that was advised of it has gone", false});
    LoseDaemon();
  }
  return Forward(message, 0);
}

// started: rings run, and librte_vhost would remap under the pollers; its link is closed, with no way back for now.
Session::Handled Session::OnMemoryWhileListening(bool unchanged, bool started) {
  if (unchanged && !record_.postcopy_bases.empty()) {  // librte_vhost would answer that nothing has changed
    AnswerMemory();
    return Outcome::kAnswered;
  }
  record_.postcopy_bases.clear();
  if (started && link_ == Link::kSynced) {
    Put(CloseDaemon{"guest memory has changed while post-copy is under way", false});
    LoseDaemon();
  }
  if (Forward(MakeMessage(Request::kSetMemTable, 0), 0) != Outcome::kAnswered) AnswerMemory();
  return Outcome::kAnswered;
}

// Where the daemon has the regions. It now waits for the front-end's word that it knows (and with it librte_vhost's one
// thread, for all ports), which the keeper gives: before the front-end's own no ring is started here, so no page is
// asked for. What follows is answered when the regions have been registered.
absl::Status Session::TakeMemoryBases(const Message& message) {
  constexpr size_t kHeader = 8;  // number of regions, padding
  const size_t count = record_.memory.size();
  if (message.payload.size() == sizeof(uint64_t))
    return absl::FailedPreconditionError("the daemon did not take guest memory for post-copy");
  std::vector<MemoryRegion> regions(count);
  if (message.payload.size() != kHeader + count * sizeof(MemoryRegion))
    return absl::InvalidArgumentError(absl::StrCat("the daemon's reply to SET_MEM_TABLE has ", message.payload.size(),
                                                   " bytes for ", count, " regions"));
  std::memcpy(regions.data(), message.payload.data() + kHeader, count * sizeof(MemoryRegion));
  for (size_t i = 0; i < count; ++i) {
    if (regions[i].guest_phys_addr != record_.memory[i].region.guest_phys_addr)
      return absl::InvalidArgumentError("the daemon's reply to SET_MEM_TABLE is about other regions");
    record_.postcopy_bases.push_back(regions[i].userspace_addr);
  }
  Put(SendToDaemon{MakeMessage(Request::kSetMemTable, 0, uint64_t{0})});
  SendStep({Request::kGetProtocolFeatures});
  return absl::OkStatus();
}

// Without a daemon nobody asks for pages at any address; the front-end's own ones are as good as any that it can use
// to say that a page has come.
void Session::AnswerMemory() {
  std::vector<MemoryRegion> regions;
  for (const RecordedRegion& recorded : record_.memory) regions.push_back(recorded.region);
  if (record_.postcopy_bases.size() != regions.size()) {
    record_.postcopy_bases.clear();
    for (const MemoryRegion& region : regions) record_.postcopy_bases.push_back(region.userspace_addr);
  }
  for (size_t i = 0; i < regions.size(); ++i) regions[i].userspace_addr = record_.postcopy_bases[i];
  Put(SendToFrontend{vhost_user::EncodeMemTable(regions, vhost_user::kFlagReply)});
  memory_ack_due_ = true;
}

// In the form of a SET_MEM_TABLE with a number, 0, in place of regions. QEMU asks for no answer.
Session::Handled Session::OnMemoryAck(const Message& message) {
  const bool is_ack = message.request == Request::kSetMemTable && !(message.flags & vhost_user::kFlagReply) &&
                      message.payload.size() == sizeof(uint64_t) && message.fds.empty();
  if (!is_ack) return Broken(message.request, "where the acknowledgement of a post-copy SET_MEM_TABLE belongs");
  if (const auto value = vhost_user::PayloadAs<uint64_t>(message); value != 0)
    return Broken(message.request, absl::StrCat("the front-end cannot serve these regions: ", value));
  memory_ack_due_ = false;
  return Outcome::kRecorded;
}

// Sent once for each of the front-end's queue pairs, and after a post-copy that it had no need to begin.
Session::Handled Session::OnPostcopyEnd(Message& message) {
  const bool held_back = record_.listening() && link_ == Link::kNone;
  record_.postcopy = Postcopy::kNone;
  record_.postcopy_bases.clear();
  fetched_rings_ = 0;
  if (held_back) UpdateState("");
  return daemon_advised_ && std::exchange(daemon_advised_, false) ? Forward(message, 0) : Outcome::kRecorded;
}

void Session::ForgetPostcopy() {
  userfaultfd_ = UniqueFd();
  memory_ack_due_ = false;
  fetched_rings_ = 0;
}

std::string Session::WhyHeldBack() const {
  return "post-copy under way, and the daemon that served it has gone: no other can before its end";
}

}  // namespace everport
