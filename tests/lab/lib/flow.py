"""A guest that sends and receives numbered frames on a port, and the network at its uplinks' far ends (tools/flow_guest.cc).

    with FlowGuest(socket, mac, peer_mac, ["vf", "tap"]) as flow:    # everport may be started before or after
        flow.wait_connected()
        flow.attach("vf", "eth3")
        flow.phase()                 # from here on:
        ...
        books = flow.phase()         # what became of every frame since the last one
"""

import json
import os
import pathlib
import subprocess
import time

from .everport import BIN


class FlowGuest:
    """Use with `with`: it is gone afterwards. rate: frames a second each way."""

    def __init__(self, socket, mac, peer_mac, far_ends, rate=4000):
        self._log = open(pathlib.Path(os.environ.get("LAB_RESULTS", "/tmp")) / "flow_guest.log", "a")
        command = [BIN / "flow_guest", socket, mac, peer_mac, str(rate), *far_ends]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._log, text=True)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._process.stdin.close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            raise
        finally:
            self._log.close()

    def wait_connected(self):
        self._answer()
        return self

    def attach(self, name, interface):
        self._ask(f"attach {name} {interface}")

    def phase(self):
        return self._ask("phase")

    def _ask(self, line):
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()
        return self._answer()

    def _answer(self):
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"flow_guest has ended with status {self._process.wait(10)}; see {self._log.name}")
        answer = json.loads(line)
        if "error" in answer:
            raise RuntimeError(f"flow_guest: {answer['error']}")
        return answer


def milliseconds():
    """On the clock of its books."""
    return time.monotonic() * 1000


def assert_nothing_lost(books):
    """Neither way: lost, doubled, overtaken."""
    for way in ("out", "in"):
        counts = books[way]
        assert counts["sent"] > 100, f"{way}: hardly any traffic: {counts}"
        for what in ("missing", "doubled", "overtaken", "late", "corrupted"):
            assert counts[what] == 0, f"{way}: {what}: {counts}"
    assert books["outstanding"] == books["unknown"] == books["malformed"] == 0, books
