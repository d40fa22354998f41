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

from e2e.lib.process import wait_until

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

    def look(self):
        """How many frames so far in this phase: taken (from the guest), in, others, and by far end."""
        return self._ask("look")

    def wait_more(self, *what, frames=100, timeout=20):
        """Until as many more have been seen at each of these."""
        before = self.look()
        wait_until(lambda: all(now[w] >= before[w] + frames for now in [self.look()] for w in what), timeout,
                   f"frames are seen: {' and '.join(what)}")

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


def gap_ms(books, way):
    """The longest time without a frame, and how much of it was spent while the books' own process was not run: the VM's
    four CPUs share those of its host with whatever else runs there."""
    counts = books[way]
    not_run = sum(max(0, min(to, counts["gap_to"]) - max(begin, counts["gap_from"])) for begin, to in books["pauses"])
    return counts["gap_ms"], not_run


def assert_once_each(first, sent, *sides):
    """sides: the runs of sequence numbers that each far end has seen. Together they have every frame, none twice; each has
    them in order."""
    for runs in sides:
        assert all(a[1] < b[0] for a, b in zip(runs, runs[1:])), "overtaken"
    due = first
    for begin, end in sorted((max(run[0], first), run[1]) for runs in sides for run in runs if run[1] >= first):
        assert begin >= due, f"frames {begin} … {due - 1} came twice"
        assert begin == due, f"frames {due} … {begin - 1} are lost"
        due = end + 1
    assert due == first + sent, f"of {sent} frames only {due - first} came"


def assert_nothing_lost(books):
    """Neither way: lost, doubled, overtaken."""
    for way in ("out", "in"):
        counts = books[way]
        assert counts["sent"] > 100, f"{way}: hardly any traffic: {counts}"
        for what in ("missing", "doubled", "overtaken", "late", "corrupted"):
            assert counts[what] == 0, f"{way}: {what}: {counts}"
    assert books["outstanding"] == books["unknown"] == books["malformed"] == 0, books
