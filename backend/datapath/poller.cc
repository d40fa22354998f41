#include "backend/datapath/poller.h"

#include <rte_cycles.h>
#include <rte_launch.h>
#include <rte_lcore.h>
#include <rte_rcu_qsbr.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <future>
#include <utility>

#include "absl/strings/str_cat.h"
#include "backend/base/log.h"

namespace everport {
namespace {

constexpr uint64_t kSpinUs = 20;                // without a frame before sleeping
constexpr uint64_t kEventSleepNs = 10'000'000;  // when every queue can wake us: a safety net, not a latency

void Count(std::atomic<uint64_t>& counter, uint64_t n = 1) {
  counter.store(counter.load(std::memory_order_relaxed) + n, std::memory_order_relaxed);
}

// The tap driver learns of frames by a real-time signal (O_ASYNC); the process blocks those everywhere else, so that
// they interrupt pollers alone.
void TakeRealtimeSignals() {
  sigset_t set;
  sigemptyset(&set);
  for (int signo = SIGRTMIN; signo <= SIGRTMAX; ++signo) sigaddset(&set, signo);
  pthread_sigmask(SIG_UNBLOCK, &set, nullptr);
}

}  // namespace

Poller::Poller(int index, unsigned lcore, std::string cpus, int numa_node, uint32_t max_sleep_us, rte_rcu_qsbr* rcu)
    : index_(index),
      lcore_(lcore),
      cpus_(std::move(cpus)),
      numa_node_(numa_node),
      max_sleep_us_(max_sleep_us),
      rcu_(rcu),
      epoll_(epoll_create1(EPOLL_CLOEXEC)),
      bell_(eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC)) {}

absl::Status Poller::Start() {
  epoll_event event{.events = EPOLLIN, .data = {.u64 = 1}};
  if (!epoll_.valid() || !bell_.valid() || epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, bell_.get(), &event) != 0)
    return absl::ErrnoToStatus(errno, absl::StrCat("poller ", index_, ": epoll"));
  if (rte_eal_remote_launch(Main, this, lcore_) != 0)
    return absl::UnavailableError(absl::StrCat("poller ", index_, ": lcore ", lcore_, " does not take it"));
  started_ = true;
  return absl::OkStatus();
}

Poller::~Poller() {
  if (!started_) return;
  Mail([this] { stop_ = true; });
  rte_eal_wait_lcore(lcore_);
  (void)ended_.load(std::memory_order_acquire);  // the library's own order is not one that ThreadSanitizer sees
}

void Poller::Add(Lane* lane) {
  ++lane_count_;
  Mail([this, lane] {
    Slot slot;
    slot.lane = lane;
    slots_.push_back(std::move(slot));
  });
}

void Poller::Remove(Lane* lane) {
  --lane_count_;
  MailAndWait([this, lane] {
    auto slot = std::find_if(slots_.begin(), slots_.end(), [&](const Slot& s) { return s.lane == lane; });
    if (slot == slots_.end()) return;
    StopWaiting(*slot);
    slots_.erase(slot);
  });
}

absl::Duration Poller::Apply(Lane* lane, const std::function<void()>& change) {
  uint64_t cycles = 0;
  MailAndWait([&] {
    const uint64_t start = rte_rdtsc();
    auto slot = std::find_if(slots_.begin(), slots_.end(), [&](const Slot& s) { return s.lane == lane; });
    if (slot != slots_.end()) {
      if (slot->waiting) DisarmAll(*slot);
      StopWaiting(*slot);
    }
    change();
    if (slot != slots_.end()) slot->generation = lane->wake_generation() - 1;  // watch anew
    idle_since_ = 0;
    cycles = rte_rdtsc() - start;
  });
  return absl::Seconds(static_cast<double>(cycles) / static_cast<double>(rte_get_tsc_hz()));
}

void Poller::Wake() {
  const uint64_t one = 1;
  // EAGAIN means the bell has rung 2^64 - 2 times unheard: it is ringing.
  if (write(bell_.get(), &one, sizeof one) < 0 && errno != EAGAIN)
    spdlog::error("poller {}: bell: {}", index_, strerror(errno));
}

void Poller::Mail(std::function<void()> letter) {
  {
    std::lock_guard lock(mutex_);
    mail_.push_back(std::move(letter));
    has_mail_.store(true, std::memory_order_release);
  }
  Wake();
}

void Poller::MailAndWait(std::function<void()> letter) {
  std::promise<void> done;
  Mail([&] {
    letter();
    done.set_value();
  });
  done.get_future().wait();
}

int Poller::Main(void* self) {
  auto* poller = static_cast<Poller*>(self);
  TakeRealtimeSignals();
  rte_rcu_qsbr_thread_register(poller->rcu_, poller->index_);
  rte_rcu_qsbr_thread_online(poller->rcu_, poller->index_);
  while (!poller->stop_) poller->RunOnce();
  rte_rcu_qsbr_thread_offline(poller->rcu_, poller->index_);
  rte_rcu_qsbr_thread_unregister(poller->rcu_, poller->index_);
  poller->ended_.store(true, std::memory_order_release);
  return 0;
}

void Poller::RunOnce() {
  TakeMail();
  const unsigned moved = PollLanes();
  rte_rcu_qsbr_quiescent(rcu_, index_);
  Count(counters_.loops);
  if (moved > 0) {
    idle_since_ = 0;
  } else if (idle_since_ == 0) {
    idle_since_ = rte_rdtsc();
  } else if (max_sleep_us_ > 0 && rte_rdtsc() - idle_since_ > kSpinUs * rte_get_tsc_hz() / 1'000'000) {
    Sleep();
  }
}

void Poller::TakeMail() {
  if (!has_mail_.load(std::memory_order_acquire)) return;
  std::vector<std::function<void()>> mail;
  {
    std::lock_guard lock(mutex_);
    mail.swap(mail_);
    has_mail_.store(false, std::memory_order_release);
  }
  for (auto& letter : mail) letter();
}

unsigned Poller::PollLanes() {
  unsigned moved = 0;
  for (Slot& slot : slots_) {
    const unsigned n = slot.lane->Poll();
    if (n > 0 && slot.waiting) {
      DisarmAll(slot);
    }
    moved += n;
  }
  return moved;
}

// Turns notification on for every lane that has it off, and looks at lanes whose queues have changed.
void Poller::PrepareToSleep() {
  for (Slot& slot : slots_) {
    if (const uint32_t generation = slot.lane->wake_generation(); generation != slot.generation) {
      slot.generation = generation;
      Watch(slot);
      slot.waiting = false;
    }
    if (slot.waiting) continue;
    slot.waiting = true;
    for (Endpoint* endpoint : slot.lane->endpoints()) endpoint->ArmWake();
  }
}

void Poller::Sleep() {
  PrepareToSleep();
  if (PollLanes() > 0) {  // it came before notification was on
    idle_since_ = 0;
    return;
  }
  rte_rcu_qsbr_thread_offline(rcu_, index_);
  Wait();
  rte_rcu_qsbr_thread_online(rcu_, index_);
}

void Poller::Wait() {
  const bool complete = std::all_of(slots_.begin(), slots_.end(), [](const Slot& slot) { return slot.complete; });
  const uint64_t ns = complete ? kEventSleepNs : uint64_t{max_sleep_us_} * 1000;
  const timespec timeout{.tv_sec = static_cast<time_t>(ns / 1'000'000'000),
                         .tv_nsec = static_cast<long>(ns % 1'000'000'000)};
  epoll_event events[16];
  const uint64_t before = rte_rdtsc();
  const int n = epoll_pwait2(epoll_.get(), events, 16, &timeout, nullptr);
  Count(counters_.slept_ns, (rte_rdtsc() - before) * 1'000'000'000.0 / rte_get_tsc_hz());
  Count(counters_.sleeps);
  if (n != 0) {
    Count(counters_.wakeups);
    idle_since_ = 0;  // something is there or on its way (or a signal came): spin a little
  }
  for (int i = 0; i < n; ++i) {
    uint64_t rings;
    if (events[i].data.u64 == 1 && read(bell_.get(), &rings, sizeof rings) < 0 && errno != EAGAIN)
      spdlog::error("poller {}: bell: {}", index_, strerror(errno));
  }
}

void Poller::DisarmAll(Slot& slot) {
  slot.waiting = false;
  for (Endpoint* endpoint : slot.lane->endpoints()) endpoint->DisarmWake();
}

void Poller::Watch(Slot& slot) {
  StopWaiting(slot);
  slot.complete = true;
  for (Endpoint* endpoint : slot.lane->endpoints()) {
    for (Endpoint::WakeFd& wake : endpoint->WakeFds(slot.complete)) {
      epoll_event event{.events = static_cast<uint32_t>(EPOLLIN | (wake.edge ? uint32_t{EPOLLET} : 0u)),
                        .data = {.u64 = 0}};
      if (!wake.fd.valid() || epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, wake.fd.get(), &event) != 0) {
        slot.complete = false;  // sleep max_sleep_us at most
        continue;
      }
      slot.fds.push_back(std::move(wake.fd));
    }
  }
}

// The kick's eventfd is shared with QEMU and the keeper, so closing our duplicate does not take it out of epoll.
void Poller::StopWaiting(Slot& slot) {
  for (const UniqueFd& fd : slot.fds) epoll_ctl(epoll_.get(), EPOLL_CTL_DEL, fd.get(), nullptr);
  slot.fds.clear();
}

}  // namespace everport
