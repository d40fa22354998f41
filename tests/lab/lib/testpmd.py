"""dpdk-testpmd under a test's hand: commands at its prompt, answers as text."""

import os
import pathlib
import pty
import re
import select
import signal
import subprocess
import time


class Testpmd:
    """Started and at its prompt. Use with `with`: it is gone afterwards.

    eal: EAL arguments beside the usual ones; options: testpmd's own. name keeps several apart. pci: addresses that it may
    use; none if empty.
    """

    __test__ = False  # for pytest: no test, whatever its name
    PROMPT = "testpmd> "

    def __init__(self, name, *, vdevs=(), pci=(), cpus="0-1", memory_mb=128, eal=(), options=(), timeout=60):
        self.name = name
        devices = [word for vdev in vdevs for word in ("--vdev", vdev)]
        devices += [word for address in pci for word in ("-a", address)] or ["--no-pci"]
        self.args = ["dpdk-testpmd", "-l", cpus, "--in-memory", "--file-prefix", name,
                     "-m", str(memory_mb), *devices, *eal, "--", "-i", "--total-num-mbufs=8192", *options]
        self.log_path = pathlib.Path(os.environ.get("LAB_RESULTS", "/tmp")) / f"{name}.log"
        self._log = open(self.log_path, "w", buffering=1)
        print("$", *self.args, file=self._log)
        ours, theirs = pty.openpty()  # on a pipe testpmd would keep its words to itself
        self._terminal = ours
        self._process = subprocess.Popen(self.args, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True)
        os.close(theirs)
        self._seen = ""
        try:
            self.wait_for(self.PROMPT, timeout)
        except BaseException:
            self.close()
            raise

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    @property
    def pid(self):
        return self._process.pid

    def wait_for(self, pattern, timeout=10):
        """What it says up to where the regular expression is found; that is taken off."""
        deadline = time.monotonic() + timeout
        while not (found := re.search(pattern, self._seen)):
            left = deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError(f"testpmd {self.name}: no {pattern!r} within {timeout} s: {self._seen[-2000:]}")
            if select.select([self._terminal], [], [], left)[0]:
                try:
                    text = os.read(self._terminal, 65536).decode(errors="replace").replace("\r", "")
                except OSError:
                    raise RuntimeError(f"testpmd {self.name} has ended: {self._seen[-2000:]}") from None
                self._log.write(text)
                self._seen += text
        text, self._seen = self._seen[:found.end()], self._seen[found.end():]
        return text

    def command(self, line, timeout=30):
        """Types it; what testpmd says until it prompts again."""
        os.write(self._terminal, line.encode() + b"\n")
        return self.wait_for("\n" + re.escape(self.PROMPT), timeout)

    def link_up(self, port=0):
        """What the PMD says of the link, asked now."""
        return "Link status: up" in self.command(f"show port info {port}")

    def counters(self, port=0):
        """{"RX-packets": …, "TX-packets": …, "RX-missed": …, …}"""
        return {name: int(value) for name, value in re.findall(r"([RT]X-\w+): +(\d+)", self.command(f"show port stats {port}"))}

    def kill(self):
        self._process.send_signal(signal.SIGKILL)
        self._process.wait(10)

    def close(self):
        """Asks it to end, which unmaps and closes its devices in order; SIGKILL if it does not within 10 s."""
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(10)
            except subprocess.TimeoutExpired:
                self.kill()
        os.close(self._terminal)
        self._log.close()
