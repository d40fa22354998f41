"""everport-uplink-probe: one uplink by itself, and the time of everything it says.

    with UplinkProbe("vf", vf.address, vf.mac) as probe:
        probe.wait("trouble none")
"""

import os
import pathlib
import select
import subprocess
import time

from .everport import BIN


class UplinkProbe:
    """Lines are (milliseconds on time.monotonic, text)."""

    def __init__(self, kind, device, mac, *options, name="probe"):
        self.log_path = pathlib.Path(os.environ.get("LAB_RESULTS", "/tmp")) / f"{name}.log"
        self._log = open(self.log_path, "a", buffering=1)
        self._process = subprocess.Popen([BIN / "everport-uplink-probe", kind, device, mac, *options],
                                         stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._log)
        os.set_blocking(self._process.stdout.fileno(), False)
        self._rest = b""
        self.lines = []
        self._next = 0

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._process.stdin.close()
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            raise
        finally:
            self._log.close()

    def wait(self, start, timeout=20):
        """The next line that starts so, of those not yet waited for: (ms, text)."""
        deadline = time.monotonic() + timeout
        while True:
            while self._next < len(self.lines):
                line = self.lines[self._next]
                self._next += 1
                if line[1].startswith(start):
                    return line
            left = deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError(f"no {start!r} within {timeout} s; heard: {self.lines}; {self.log_path.read_text()[-2000:]}")
            if select.select([self._process.stdout], [], [], left)[0]:
                self._read()

    def _read(self):
        data = self._process.stdout.read()
        if data == b"":
            raise RuntimeError(f"the probe has ended: {self.lines}; {self.log_path.read_text()[-2000:]}")
        now = time.monotonic() * 1000
        self._rest += data
        *lines, self._rest = self._rest.split(b"\n")
        for line in lines:
            text = line.decode().split(" ", 1)[1]
            print(f"{now:.0f} {line.decode()}", file=self._log)
            self.lines.append((now, text))
