"""Child processes that never outlive us: each dies with its parent, and stop() waits until it is gone."""

import ctypes
import os
import signal
import subprocess
import threading
import time

_libc = ctypes.CDLL(None, use_errno=True)
_PR_SET_PDEATHSIG = 1


def _die_with_parent():
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


class Process:
    """A child whose output goes to a log file, and line by line to on_line if that is given.

    detach: the child stays when we go (quickstart --keep). on_line is called on a thread of this object's own.
    """

    def __init__(self, args, *, name, log_path, env=None, on_line=None, pass_fds=(), detach=False):
        self.name = name
        self.args = [str(a) for a in args]
        self.log_path = log_path
        self.started = time.monotonic()
        with open(log_path, "ab") as log:
            log.write(("$ " + " ".join(self.args) + "\n").encode())
            log.flush()
            self._popen = subprocess.Popen(
                self.args, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE if on_line else log,
                stderr=log, env={**os.environ, **(env or {})}, pass_fds=pass_fds,
                preexec_fn=None if detach else _die_with_parent, start_new_session=True)
        self._reader = None
        if on_line:
            self._reader = threading.Thread(target=self._read_lines, args=(on_line,), daemon=True)
            self._reader.start()

    def _read_lines(self, on_line):
        for line in self._popen.stdout:
            on_line(line.decode(errors="replace").rstrip("\n"))

    @property
    def pid(self):
        return self._popen.pid

    def alive(self):
        return self._popen.poll() is None

    def signal(self, number):
        if self.alive():
            self._popen.send_signal(number)

    def wait(self, timeout):
        """Exit status; TimeoutError that names the process if it goes on."""
        try:
            status = self._popen.wait(timeout)
        except subprocess.TimeoutExpired:
            raise TimeoutError(f"{self.name} did not end within {timeout} s{self.log_tail()}") from None
        if self._reader:
            self._reader.join(5)
        return status

    def kill(self):
        """SIGKILL, and gone when it returns."""
        self.signal(signal.SIGKILL)
        return self.wait(10)

    def stop(self, timeout=10):
        """SIGTERM, then SIGKILL; gone when it returns. The exit status: negative if a signal ended it."""
        self.signal(signal.SIGTERM)
        try:
            return self.wait(timeout)
        except TimeoutError:
            return self.kill()

    def log_tail(self, lines=30):
        try:
            with open(self.log_path, encoding="utf-8", errors="replace") as log:
                text = log.read().splitlines()[-lines:]
        except OSError:
            return ""
        return "\n--- " + str(self.log_path) + "\n" + "\n".join(text)


PATIENCE = 3


def wait_until(condition, timeout, what, interval=0.01):
    """For what cannot be waited for as an event (another process's own counters): asks again until true.

    timeout: seconds that are ample on an idle machine; PATIENCE times as long is waited.
    """
    deadline = time.monotonic() + PATIENCE * timeout
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what}: not within {PATIENCE * timeout} s")
        time.sleep(interval)
