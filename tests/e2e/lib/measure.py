"""What the network did, as seen from the host's side of the bridge. Times are time.monotonic()."""

import json
import signal
import statistics
import threading
import time

from .process import Process


def _wait_more(changed, process, deadline, what):
    """Until the process has said something more; an error if it has ended, or the time has come."""
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError(f"{process.name}: {what}{process.log_tail()}")
    if not changed.wait(min(left, 0.5)) and not process.alive():
        raise RuntimeError(f"{process.name}: ended with status {process.wait(0)}{process.log_tail()}")


class Pinger:
    """ICMP echo at a fixed interval, every reply with its time of arrival."""

    def __init__(self, prefix, program, address, work_dir, interval_ms=10):
        self.interval = interval_ms / 1000
        self.sent = self.received = self.duplicates = None  # known after stop()
        self._replies = []  # times
        self._changed = threading.Condition()
        self._process = Process([*prefix, program, "icmp", address, interval_ms], name=f"pings of {address}",
                                log_path=f"{work_dir}/ping.log", on_line=self._take)

    def _take(self, line):
        said = json.loads(line)
        with self._changed:
            if "reply" in said:
                self._replies.append(said["at"])
            else:
                self.sent, self.received, self.duplicates = said["sent"], said["received"], said["duplicated"]
            self._changed.notify_all()

    def wait_reply(self, after, timeout):
        """Time of the first reply that arrived after this time."""
        deadline = time.monotonic() + timeout
        with self._changed:
            while True:
                # From the end: a long run has many replies, and the one we look for is among the last.
                late = None
                for at in reversed(self._replies):
                    if at <= after:
                        break
                    late = at
                if late:
                    return late
                _wait_more(self._changed, self._process, deadline, f"no reply for {timeout} s")

    def gap(self, start, end):
        """Longest time without a reply that touches [start, end], in seconds, less the interval at which we ask."""
        with self._changed:
            times = list(self._replies)
        return max((b - a - self.interval for a, b in zip(times, times[1:]) if b >= start and a <= end), default=0.0)

    def gaps(self, longer):
        """(begin, end) of each time of so many seconds without a reply."""
        with self._changed:
            times = list(self._replies)
        return [(a, b) for a, b in zip(times, times[1:]) if b - a > longer]

    def stop(self):
        """Ends it, waiting for the last replies; then sent, received, lost and duplicates are known."""
        self._process.signal(signal.SIGTERM)
        self._process.wait(60)
        return self

    @property
    def lost(self):
        return self.sent - self.received

    def close(self):
        self._process.kill()


class Flow:
    """everport-flow on the host: its progress as it goes, its JSON at the end."""

    def __init__(self, prefix, program, args, work_dir):
        self.result = None
        self._progress = []  # (time, bytes)
        self._changed = threading.Condition()
        self._process = Process([*prefix, program, *args], name="everport-flow " + " ".join(str(a) for a in args),
                                log_path=f"{work_dir}/flow-{args[0]}.log", on_line=self._take)

    def _take(self, line):
        said = json.loads(line)
        with self._changed:
            if "progress" in said:
                self._progress.append((said["at"], said["progress"]))
            else:
                self.result = said
            self._changed.notify_all()

    def wait_progress(self, after, timeout):
        """Time of the first progress after this time."""
        deadline = time.monotonic() + timeout
        with self._changed:
            while True:
                late = [at for at, _ in self._progress[-1000:] if at > after]
                if late:
                    return late[0]
                _wait_more(self._changed, self._process, deadline, f"no progress for {timeout} s")

    def gap(self, start, end):
        """Longest time without progress that touches [start, end], in seconds."""
        with self._changed:
            times = [at for at, _ in self._progress]
        return max((b - a for a, b in zip(times, times[1:]) if b >= start and a <= end), default=0.0)

    def finish(self, timeout=40):
        """Ends a sender early, and in order; the JSON it ended with."""
        self._process.signal(signal.SIGTERM)
        return self.wait(timeout)

    def wait(self, timeout):
        """The JSON it ended with."""
        self._process.wait(timeout)
        if self.result is None:
            raise RuntimeError(f"{self._process.name} said nothing{self._process.log_tail()}")
        return self.result

    def close(self):
        self._process.kill()


def gbit_per_s(result):
    return result["bytes"] * 8 / result["seconds"] / 1e9 if result["seconds"] else 0.0


def median(values):
    return statistics.median(values)
