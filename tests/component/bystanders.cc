#include "tests/component/bystanders.h"

#include <algorithm>
#include <iterator>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

namespace everport::component {
namespace {

constexpr absl::Duration kSettle = absl::Milliseconds(100);
constexpr char kGuestMemory[] = "memfd:everport-test";

std::string More(const char* whose, const std::vector<std::string>& before, const std::vector<std::string>& now) {
  std::vector<std::string> more;
  std::set_difference(now.begin(), now.end(), before.begin(), before.end(), std::back_inserter(more));
  if (more.empty()) return "";
  return absl::StrCat(whose, " holds ", more.size(), " descriptors more: ", absl::StrJoin(more, ", "), "; ");
}

// Without the inode of sockets, which says nothing.
std::vector<std::string> Kinds(std::vector<std::string> fds) {
  for (std::string& fd : fds) {
    if (fd.starts_with("socket:")) fd = "socket";
  }
  return fds;
}

}  // namespace

Bystanders::Bystanders(Stack& stack, const std::string& a, const std::string& b)
    : stack_(stack),
      left_({.socket = stack.Socket(a)}),
      right_({.socket = stack.Socket(b), .packed = true}),
      there_(left_, right_, 1),
      back_(right_, left_, 2) {
  left_.Listen();
  right_.Listen();
  if (!left_.Connect(absl::Seconds(10)).ok() || !right_.Connect(absl::Seconds(10)).ok()) return;
  fakes::Flow* const flows[] = {&there_, &back_};
  auto moving = [&] { return there_.ledger().received > 1000 && back_.ledger().received > 1000; };
  if (!fakes::RunUntil(flows, moving, absl::Seconds(10)) || !DrainAll(flows, absl::Seconds(5)).empty()) return;
  for (fakes::Flow* flow : flows) {
    flow->sending = true;
    flow->StartWindow(64);
  }
  ready_ = true;
}

bool Bystanders::RunUntil(const std::function<bool()>& done, absl::Duration timeout) {
  fakes::Flow* const flows[] = {&there_, &back_};
  return fakes::RunUntil(flows, done, timeout);
}

bool Bystanders::Eventually(const std::function<bool()>& done, absl::Duration timeout) {
  absl::Time next = absl::Now();
  auto look = [&] {
    if (absl::Now() < next) return false;
    if (done()) return true;
    next = absl::Now() + absl::Milliseconds(20);
    return false;
  };
  return RunUntil(look, timeout);
}

std::string Bystanders::Loss() {
  const uint64_t there = there_.ledger().received, back = back_.ledger().received;
  const bool moves = RunUntil(
      [&] { return there_.ledger().received > there + 100 && back_.ledger().received > back + 100; }, absl::Seconds(5));
  there_.sending = back_.sending = false;
  RunUntil([&] { return there_.unaccounted() + back_.unaccounted() == 0; }, absl::Seconds(2));
  there_.sending = back_.sending = true;
  std::string loss = absl::StrCat(there_.Fault(), back_.Fault());
  if (!moves) absl::StrAppend(&loss, "; the bystanders' traffic stands still");
  if (const uint64_t lost = there_.unaccounted() + back_.unaccounted(); lost > 0) {
    absl::StrAppend(&loss, "; ", lost, " frames of the bystanders were lost");
  }
  return loss;
}

Footprint Bystanders::Now() const {
  return {Kinds(stack_.keeper().fds()), Kinds(stack_.daemon().fds()), stack_.keeper().map_count(kGuestMemory),
          stack_.daemon().map_count(kGuestMemory)};
}

Footprint Bystanders::Settle() {
  Footprint last = Now();
  absl::Time since = absl::Now();
  RunUntil(
      [&] {
        if (absl::Now() - since < kSettle) return false;
        Footprint now = Now();
        if (now == last) return true;
        last = std::move(now);
        since = absl::Now();
        return false;
      },
      absl::Seconds(10));
  return last;
}

std::string Bystanders::Growth(const Footprint& before) {
  Footprint now;
  Eventually([&] { return (now = Now()) == before; });
  std::string growth = absl::StrCat(More("the keeper", before.keeper_fds, now.keeper_fds),
                                    More("the daemon", before.daemon_fds, now.daemon_fds));
  if (now.keeper_maps > before.keeper_maps) {
    absl::StrAppend(&growth, "the keeper maps ", now.keeper_maps - before.keeper_maps, " regions more; ");
  }
  if (now.daemon_maps > before.daemon_maps) {
    absl::StrAppend(&growth, "the daemon maps ", now.daemon_maps - before.daemon_maps, " regions more; ");
  }
  return growth;
}

}  // namespace everport::component
