// everport-agent: runs commands in the guest for the test harness, over a virtio-serial port.
//
//   everport-agent DEVICE
//
// Says "READY\n" when it listens. In: "ID COMMAND\n"; COMMAND is run by sh in the background, so several may run at
// once. Out, when it has ended: "ID STATUS LENGTH\n" and LENGTH bytes of what it printed (stdout and stderr). A command
// that leaves a background process behind with its output closed ends when the shell ends. STATUS is as in sh: 128 +
// signal.

#include <fcntl.h>
#include <poll.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

namespace {

struct Job {
  std::string id;
  pid_t pid = 0;
  int out = -1;
  std::string text;
};

void WriteAll(int fd, const std::string& text) {
  for (size_t done = 0; done < text.size();) {
    const ssize_t n = ::write(fd, text.data() + done, text.size() - done);
    if (n > 0) done += static_cast<size_t>(n);
    if (n < 0 && errno != EINTR && errno != EAGAIN) std::exit(1);
    if (n < 0 && errno == EAGAIN) {
      pollfd p{fd, POLLOUT, 0};
      ::poll(&p, 1, -1);
    }
  }
}

Job Start(const std::string& line) {
  const size_t space = line.find(' ');
  Job job;
  job.id = line.substr(0, space);
  const std::string command = space == std::string::npos ? "" : line.substr(space + 1);
  int ends[2];
  if (::pipe2(ends, O_CLOEXEC) != 0) std::exit(1);
  job.pid = ::fork();
  if (job.pid == 0) {
    ::setsid();
    ::dup2(::open("/dev/null", O_RDONLY), 0);
    ::dup2(ends[1], 1);
    ::dup2(ends[1], 2);
    ::execl("/bin/sh", "sh", "-c", command.c_str(), nullptr);
    ::_exit(127);
  }
  ::close(ends[1]);
  job.out = ends[0];
  return job;
}

// True when the job has closed its output; its reply has been sent then.
bool Collect(Job& job, int device) {
  char buffer[4096];
  const ssize_t n = ::read(job.out, buffer, sizeof buffer);
  if (n > 0) job.text.append(buffer, static_cast<size_t>(n));
  if (n > 0 || (n < 0 && errno == EINTR)) return false;
  ::close(job.out);
  int status = 0;
  ::waitpid(job.pid, &status, 0);
  const int code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  WriteAll(device, job.id + " " + std::to_string(code) + " " + std::to_string(job.text.size()) + "\n" + job.text);
  return true;
}

void TakeCommands(int device, std::string& input, std::vector<Job>& jobs) {
  char buffer[4096];
  const ssize_t n = ::read(device, buffer, sizeof buffer);
  if (n > 0) input.append(buffer, static_cast<size_t>(n));
  for (size_t end; (end = input.find('\n')) != std::string::npos; input.erase(0, end + 1)) {
    if (end > 0) jobs.push_back(Start(input.substr(0, end)));
  }
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 2) return 2;
  const int device = ::open(argv[1], O_RDWR | O_CLOEXEC);
  if (device < 0) {
    std::perror(argv[1]);
    return 1;
  }
  WriteAll(device, "READY\n");
  std::string input;
  std::vector<Job> jobs;
  while (true) {
    std::vector<pollfd> fds{{device, POLLIN, 0}};
    for (const Job& job : jobs) fds.push_back({job.out, POLLIN, 0});
    if (::poll(fds.data(), fds.size(), -1) < 0) continue;
    for (size_t i = jobs.size(); i > 0; --i) {
      if (fds[i].revents != 0 && Collect(jobs[i - 1], device)) jobs.erase(jobs.begin() + static_cast<long>(i - 1));
    }
    if ((fds[0].revents & POLLIN) != 0) {
      TakeCommands(device, input, jobs);
    } else if ((fds[0].revents & POLLHUP) != 0) {
      ::poll(fds.data() + 1, fds.size() - 1, 200);  // the host's end is closed, and poll() would say so for ever
    }
  }
}
