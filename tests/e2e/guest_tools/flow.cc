// everport-flow: traffic whose every byte and every gap can be accounted for. Runs in the guest and on the host; linked
// statically so that a busybox initramfs can carry it. Each command ends with one JSON object of numbers on stdout.
//
//   everport-flow send HOST PORT SECONDS [PROGRESS_MS [BYTES_A_SECOND]]
//       TCP; the stream's content is a function of the position. SIGTERM ends it early, and in order.
//   everport-flow recv PORT [PROGRESS_MS]
//       one connection; every byte is compared; tells the sender what came
//   everport-flow ping HOST PORT SECONDS INTERVAL_MS
//       UDP with sequence numbers, answered by: everport-flow echo PORT, until the pinger says it is done, or 60 s
//       without a datagram
//
// The content is one pseudo-random block of a prime length, again and again: a byte lost, doubled, swapped or changed
// shows as a mismatch, and a whole block lost shows in the total, which the receiver sends back at the end.
// Exit status: 0 all arrived as sent; 1 not so (the JSON says what); 2 usage.

#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/ip_icmp.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cinttypes>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

namespace {

using Clock = std::chrono::steady_clock;  // CLOCK_MONOTONIC: comparable with a harness on the same kernel
using std::chrono::milliseconds;

constexpr size_t kBlock = 1048583;  // prime
constexpr size_t kChunk = 256 * 1024;
constexpr int kGiveUpMs = 30'000;  // without any progress
constexpr uint64_t kNoError = ~uint64_t{0};
constexpr uint64_t kLastDatagram = ~uint64_t{0};  // the pinger has done
constexpr uint64_t kHello = kLastDatagram - 1;    // is the echo there yet?

volatile sig_atomic_t g_enough = 0;

double Seconds(Clock::duration d) {
  return std::chrono::duration<double>(d).count();
}

// The block, followed by its own first kChunk bytes: any chunk of the stream is contiguous in it.
std::vector<uint8_t> MakePattern() {
  std::vector<uint8_t> pattern(kBlock + kChunk);
  uint64_t state = 0x9e3779b97f4a7c15;
  for (size_t i = 0; i < kBlock; ++i) {
    state ^= state << 13, state ^= state >> 7, state ^= state << 17;
    pattern[i] = static_cast<uint8_t>(state >> 32);
  }
  std::copy_n(pattern.begin(), kChunk, pattern.begin() + kBlock);
  return pattern;
}

// Counts bytes, remembers the longest time without any, and prints a progress line at most every interval.
class Progress {
 public:
  explicit Progress(int interval_ms) : interval_(interval_ms) {}

  void Add(uint64_t bytes) {
    const auto now = Clock::now();
    if (bytes_ == 0) start_ = last_ = now;
    longest_ = std::max(longest_, now - last_);
    last_ = now;
    bytes_ += bytes;
    if (interval_.count() > 0 && now - printed_ >= interval_) {
      printed_ = now;
      std::printf("{\"progress\":%" PRIu64 ",\"at\":%.4f}\n", bytes_, Seconds(now.time_since_epoch()));
    }
  }
  uint64_t bytes() const { return bytes_; }
  double seconds() const { return Seconds(last_ - start_); }
  double longest_stall_ms() const { return Seconds(longest_) * 1000; }

 private:
  milliseconds interval_;
  uint64_t bytes_ = 0;
  Clock::time_point start_{}, last_{}, printed_{};
  Clock::duration longest_{};
};

[[noreturn]] void Fail(const std::string& what) {
  std::fprintf(stderr, "everport-flow: %s: %s\n", what.c_str(), std::strerror(errno));
  std::exit(1);
}

bool WaitFor(int fd, short events, int timeout_ms) {
  pollfd p{fd, events, 0};
  return ::poll(&p, 1, timeout_ms) > 0;
}

sockaddr_in Address(const char* host, const char* port) {
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(static_cast<uint16_t>(std::atoi(port)));
  if (::inet_pton(AF_INET, host, &address.sin_addr) != 1) {
    std::fprintf(stderr, "everport-flow: %s is not an IPv4 address\n", host);
    std::exit(2);
  }
  return address;
}

int Bound(int type, const char* port) {
  const int fd = ::socket(AF_INET, type | SOCK_CLOEXEC, 0);
  const int on = 1;
  ::setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
  const sockaddr_in address = Address("0.0.0.0", port);
  if (fd < 0 || ::bind(fd, reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0) {
    Fail(std::string("bind to port ") + port);
  }
  return fd;
}

// The receiver may be started at the same time as we are, and its machine may be coming up: refusals are retried.
int Connect(const char* host, const char* port) {
  const sockaddr_in address = Address(host, port);
  const auto deadline = Clock::now() + milliseconds(kGiveUpMs);
  while (true) {
    const int fd = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (::connect(fd, reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0) return fd;
    if (Clock::now() > deadline) Fail(std::string("connect to ") + host + ":" + port);
    ::close(fd);
    std::this_thread::sleep_for(milliseconds(20));
  }
}

struct Receipt {
  uint64_t bytes = 0;
  uint64_t first_error = kNoError;
};

// rate: bytes a second; 0: as many as go.
int Send(const char* host, const char* port, double seconds, int progress_ms, unsigned rate) {
  const std::vector<uint8_t> pattern = MakePattern();
  const int fd = Connect(host, port);
  if (rate > 0 && ::setsockopt(fd, SOL_SOCKET, SO_MAX_PACING_RATE, &rate, sizeof rate) != 0) Fail("pacing rate");
  ::signal(SIGTERM, [](int) { g_enough = 1; });
  Progress progress(progress_ms);
  const auto end = Clock::now() + std::chrono::duration<double>(seconds);
  bool stuck = false;
  while (Clock::now() < end && g_enough == 0) {
    if (!WaitFor(fd, POLLOUT, kGiveUpMs)) {
      stuck = g_enough == 0;
      break;
    }
    const ssize_t n = ::send(fd, pattern.data() + progress.bytes() % kBlock, kChunk, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (n < 0 && errno != EAGAIN && errno != EINTR) Fail("send");
    if (n > 0) progress.Add(static_cast<uint64_t>(n));
  }
  ::shutdown(fd, SHUT_WR);
  Receipt receipt{0, 0};
  if (!stuck && WaitFor(fd, POLLIN, kGiveUpMs)) {
    if (::recv(fd, &receipt, sizeof receipt, MSG_WAITALL) != sizeof receipt) receipt = {0, 0};
  }
  const bool ok = receipt.bytes == progress.bytes() && receipt.first_error == kNoError;
  std::printf("{\"bytes\":%" PRIu64 ",\"received\":%" PRIu64 ",\"seconds\":%.3f,\"longest_stall_ms\":%.1f,\"ok\":%s}\n",
              progress.bytes(), receipt.bytes, progress.seconds(), progress.longest_stall_ms(), ok ? "true" : "false");
  return ok ? 0 : 1;
}

int Receive(const char* port, int progress_ms) {
  const std::vector<uint8_t> pattern = MakePattern();
  const int listener = Bound(SOCK_STREAM, port);
  if (::listen(listener, 1) != 0) Fail("listen");
  if (!WaitFor(listener, POLLIN, 2 * kGiveUpMs)) Fail("nobody connected");
  const int fd = ::accept4(listener, nullptr, nullptr, SOCK_CLOEXEC);
  ::close(listener);
  Progress progress(progress_ms);
  std::vector<uint8_t> buffer(kChunk);
  Receipt receipt;
  bool complete = false;
  while (!complete && WaitFor(fd, POLLIN, kGiveUpMs)) {
    const ssize_t n = ::recv(fd, buffer.data(), buffer.size(), 0);
    if (n < 0 && errno != EINTR) Fail("recv");
    if (n == 0) complete = true;
    if (n <= 0) continue;
    const uint8_t* expected = pattern.data() + progress.bytes() % kBlock;
    if (receipt.first_error == kNoError && std::memcmp(buffer.data(), expected, static_cast<size_t>(n)) != 0) {
      const auto differs = std::mismatch(buffer.begin(), buffer.begin() + n, expected).first;
      receipt.first_error = progress.bytes() + static_cast<uint64_t>(differs - buffer.begin());
    }
    progress.Add(static_cast<uint64_t>(n));
  }
  receipt.bytes = progress.bytes();
  if (complete) (void)!::send(fd, &receipt, sizeof receipt, MSG_NOSIGNAL);
  const bool ok = complete && receipt.first_error == kNoError;
  std::printf("{\"bytes\":%" PRIu64 ",\"seconds\":%.3f,\"longest_stall_ms\":%.1f,\"first_error\":%" PRId64
              ",\"complete\":%s,\"ok\":%s}\n",
              receipt.bytes, progress.seconds(), progress.longest_stall_ms(), static_cast<int64_t>(receipt.first_error),
              complete ? "true" : "false", ok ? "true" : "false");
  return ok ? 0 : 1;
}

// Datagrams that come while we do not run are to wait for us: what is lost is the network's doing then. As root.
void MakeRoom(int fd) {
  const int bytes = 16 << 20;
  if (::setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &bytes, sizeof bytes) != 0) Fail("receive buffer");
}

// The echo may be started at the same time as we are: what it misses by that is no loss.
void AwaitEcho(int fd) {
  const auto deadline = Clock::now() + milliseconds(kGiveUpMs);
  for (uint64_t answer = 0; answer != kHello;) {
    if (Clock::now() > deadline) Fail("no echo");
    (void)!::send(fd, &kHello, sizeof kHello, 0);
    if (WaitFor(fd, POLLIN, 20)) (void)!::recv(fd, &answer, sizeof answer, MSG_DONTWAIT);
  }
}

int Ping(const char* host, const char* port, double seconds, int interval_ms) {
  const int fd = ::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  const sockaddr_in address = Address(host, port);
  if (::connect(fd, reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0) Fail("connect");
  MakeRoom(fd);
  AwaitEcho(fd);
  const auto total = static_cast<uint64_t>(seconds * 1000 / interval_ms);
  std::vector<bool> answered(total);
  uint64_t sent = 0, received = 0, duplicated = 0, reordered = 0, highest = 0;
  const auto start = Clock::now();
  auto last_answer = start;
  Clock::duration longest{};
  const auto take_answers_until = [&](Clock::time_point until) {
    while (Clock::now() < until && received < total) {
      const auto left = std::chrono::duration_cast<milliseconds>(until - Clock::now()).count() + 1;
      if (!WaitFor(fd, POLLIN, static_cast<int>(left))) continue;
      uint64_t number = 0;
      if (::recv(fd, &number, sizeof number, MSG_DONTWAIT) != sizeof number || number >= total) continue;
      const auto now = Clock::now();
      longest = std::max(longest, now - last_answer);
      last_answer = now;
      if (answered[number]) {
        ++duplicated;
        continue;
      }
      answered[number] = true;
      if (received++ > 0 && number < highest) ++reordered;
      highest = std::max(highest, number);
    }
  };
  for (; sent < total; ++sent) {
    (void)!::send(fd, &sent, sizeof sent, 0);  // an error here is a loss, and counted as that
    take_answers_until(start + (sent + 1) * milliseconds(interval_ms));
  }
  take_answers_until(Clock::now() + milliseconds(1000));
  if (received < total) longest = std::max(longest, Clock::now() - milliseconds(1000) - last_answer);
  for (int i = 0; i < 3; ++i) (void)!::send(fd, &kLastDatagram, sizeof kLastDatagram, 0);
  std::printf("{\"sent\":%" PRIu64 ",\"received\":%" PRIu64 ",\"lost\":%" PRIu64 ",\"duplicated\":%" PRIu64
              ",\"reordered\":%" PRIu64 ",\"longest_gap_ms\":%.1f}\n",
              sent, received, sent - received, duplicated, reordered, Seconds(longest) * 1000);
  return received == total && duplicated == 0 && reordered == 0 ? 0 : 1;
}

int Echo(const char* port) {
  const int fd = Bound(SOCK_DGRAM, port);
  MakeRoom(fd);
  uint64_t echoed = 0;
  bool told = false;
  while (!told && WaitFor(fd, POLLIN, 2 * kGiveUpMs)) {
    uint64_t number = 0;
    sockaddr_in from{};
    socklen_t length = sizeof from;
    auto* peer = reinterpret_cast<sockaddr*>(&from);
    if (::recvfrom(fd, &number, sizeof number, 0, peer, &length) != sizeof number) continue;
    told = number == kLastDatagram;
    if (!told && ::sendto(fd, &number, sizeof number, 0, peer, length) == sizeof number && number != kHello) ++echoed;
  }
  std::printf("{\"echoed\":%" PRIu64 "}\n", echoed);
  return told ? 0 : 1;
}

struct EchoRequest {
  icmphdr header{};
  uint64_t number = 0;
};

uint16_t Checksum(const EchoRequest& request) {
  uint16_t words[sizeof request / 2];
  std::memcpy(words, &request, sizeof request);
  uint32_t sum = 0;
  for (const uint16_t word : words) sum += word;
  sum = (sum >> 16) + (sum & 0xffff);
  return static_cast<uint16_t>(~(sum + (sum >> 16)));
}

// A reply to us, from an IPv4 packet: its number.
bool ParseReply(const uint8_t* packet, size_t size, uint16_t id, uint64_t& number) {
  const size_t header = size > 0 ? (packet[0] & 0xfu) * 4 : 0;
  EchoRequest reply;
  if (header < 20 || size < header + sizeof reply) return false;
  std::memcpy(&reply, packet + header, sizeof reply);
  number = reply.number;
  return reply.header.type == ICMP_ECHOREPLY && reply.header.un.echo.id == id;
}

int IcmpPing(const char* host, int interval_ms) {
  const int fd = ::socket(AF_INET, SOCK_RAW | SOCK_CLOEXEC, IPPROTO_ICMP);
  const sockaddr_in address = Address(host, "0");
  if (fd < 0 || ::connect(fd, reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0) Fail("ICMP socket");
  ::signal(SIGTERM, [](int) { g_enough = 1; });
  const auto id = static_cast<uint16_t>(::getpid());
  uint64_t received = 0, duplicated = 0;
  std::vector<bool> answered;
  const auto take_answers_until = [&](Clock::time_point until, bool all) {
    while (Clock::now() < until && !(all && received == answered.size())) {
      const auto left = std::chrono::duration_cast<milliseconds>(until - Clock::now()).count() + 1;
      if (!WaitFor(fd, POLLIN, static_cast<int>(left))) continue;
      uint8_t packet[2048];
      uint64_t number = 0;
      const ssize_t n = ::recv(fd, packet, sizeof packet, MSG_DONTWAIT);
      if (n <= 0 || !ParseReply(packet, static_cast<size_t>(n), id, number) || number >= answered.size()) continue;
      ++(answered[number] ? duplicated : received);
      answered[number] = true;
      std::printf("{\"reply\":%" PRIu64 ",\"at\":%.4f}\n", number, Seconds(Clock::now().time_since_epoch()));
    }
  };
  const auto start = Clock::now();
  while (g_enough == 0) {
    EchoRequest request;
    request.header.type = ICMP_ECHO;
    request.header.un.echo.id = id;
    request.header.un.echo.sequence = htons(static_cast<uint16_t>(answered.size()));
    request.number = answered.size();
    request.header.checksum = Checksum(request);
    answered.push_back(false);
    (void)!::send(fd, &request, sizeof request, 0);  // an error here is a loss, and counted as that
    take_answers_until(start + answered.size() * milliseconds(interval_ms), false);
  }
  take_answers_until(Clock::now() + milliseconds(500), true);
  std::printf("{\"sent\":%zu,\"received\":%" PRIu64 ",\"duplicated\":%" PRIu64 "}\n", answered.size(), received,
              duplicated);
  return received == answered.size() ? 0 : 1;
}

int Usage() {
  std::fputs(
      "usage: everport-flow send HOST PORT SECONDS [PROGRESS_MS [BYTES_A_SECOND]] | recv PORT [PROGRESS_MS]\n"
      "       everport-flow ping HOST PORT SECONDS INTERVAL_MS | echo PORT | icmp HOST INTERVAL_MS\n",
      stderr);
  return 2;
}

}  // namespace

int main(int argc, char** argv) {
  std::setvbuf(stdout, nullptr, _IOLBF, 0);
  const std::string_view command = argc > 1 ? argv[1] : "";
  if (command == "send" && argc >= 5 && argc <= 7) {
    return Send(argv[2], argv[3], std::atof(argv[4]), argc > 5 ? std::atoi(argv[5]) : 0,
                argc > 6 ? static_cast<unsigned>(std::atol(argv[6])) : 0);
  }
  if (command == "recv" && (argc == 3 || argc == 4)) return Receive(argv[2], argc == 4 ? std::atoi(argv[3]) : 0);
  if (command == "ping" && argc == 6 && std::atoi(argv[5]) > 0) {
    return Ping(argv[2], argv[3], std::atof(argv[4]), std::atoi(argv[5]));
  }
  if (command == "echo" && argc == 3) return Echo(argv[2]);
  if (command == "icmp" && argc == 4 && std::atoi(argv[3]) > 0) return IcmpPing(argv[2], std::atoi(argv[3]));
  return Usage();
}
