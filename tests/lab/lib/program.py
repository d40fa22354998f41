"""Programs of ours that lab tests talk to: a line in, a line of JSON out; at the end of their input they end."""

import json
import os
import pathlib
import subprocess

from .everport import BIN


class Program:
    """/build/bin/NAME, started. Its stderr is in $LAB_RESULTS/LOG.log."""

    def __init__(self, name, *args, log=None):
        self.name = name
        self.log_path = pathlib.Path(os.environ.get("LAB_RESULTS", "/tmp")) / f"{log or name}.log"
        with open(self.log_path, "a") as stderr:
            self._process = subprocess.Popen([BIN / name, *map(str, args)], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                             stderr=stderr, text=True)

    @property
    def pid(self):
        return self._process.pid

    def read_line(self):
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self.name} has ended with status {self._process.wait(10)}: {self.log_path.read_text()[-2000:]}")
        return line.rstrip("\n")

    def read(self):
        answer = json.loads(self.read_line())
        if "error" in answer:
            raise RuntimeError(f"{self.name}: {answer['error']}")
        return answer

    def ask(self, line):
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()
        return self.read()

    def wait(self, timeout=10):
        return self._process.wait(timeout)

    def close(self):
        """Asks it to end; SIGKILL if it does not within 10 s."""
        self._process.stdin.close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(10)
        self._process.stdout.close()
