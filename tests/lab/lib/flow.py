"""A guest that sends and receives numbered frames on a port, and the network at its uplinks' far ends (tools/flow_guest.cc).

    with FlowGuest(socket, mac, peer_mac, ["vf", "tap"]) as flow:    # everport may be started before or after
        flow.wait_connected()
        flow.attach("vf", "eth3")
        flow.phase()                 # from here on:
        ...
        books = flow.phase()         # what became of every frame since the last one
"""

import time

from e2e.lib.process import wait_until

from .program import Program


class FlowGuest:
    """Use with `with`: it is gone afterwards. rate: frames a second each way."""

    def __init__(self, socket, mac, peer_mac, far_ends, rate=4000):
        self._program = Program("flow_guest", socket, mac, peer_mac, rate, *far_ends)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._program.close()

    def wait_connected(self):
        self._program.read()
        return self

    def attach(self, name, interface):
        self._program.ask(f"attach {name} {interface}")

    def look(self):
        """How many frames so far in this phase: taken (from the guest), in, others, and by far end."""
        return self._program.ask("look")

    def wait_more(self, *what, frames=100, timeout=20):
        """Until as many more have been seen at each of these."""
        before = self.look()
        wait_until(lambda: all(now[w] >= before[w] + frames for now in [self.look()] for w in what), timeout,
                   f"frames are seen: {' and '.join(what)}")

    def log(self, on):
        """The guest's front-end begins to log dirty pages, as a migration does, or ends it."""
        self._program.ask(f"log {'on' if on else 'off'}")

    def phase(self):
        return self._program.ask("phase")


def milliseconds():
    """On the clock of its books."""
    return time.monotonic() * 1000


def not_run_ms(books, begin, end):
    """How long the books' own process was not run between these times: the VM's four CPUs share those of its host with
    whatever else runs there."""
    return sum(max(0, min(to, end) - max(since, begin)) for since, to in books["pauses"])


def gap_ms(books, way):
    """The longest time without a frame, and how much of it was spent while the books' own process was not run."""
    counts = books[way]
    return counts["gap_ms"], not_run_ms(books, counts["gap_from"], counts["gap_to"])


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
    """Neither way, nor doubled; nor overtaken, from the guest to the network. The other way the network changes from one path
    to another, and what is under way by both may change places, but no more than a burst of it."""
    for way, overtaken in (("out", 0), ("in", 32)):
        counts = books[way]
        assert counts["sent"] > 100, f"{way}: hardly any traffic: {counts}"
        assert counts["overtaken"] <= overtaken, f"{way}: {counts}"
        for what in ("missing", "doubled", "late", "corrupted"):
            assert counts[what] == 0, f"{way}: {what}: {counts}"
    assert books["outstanding"] == books["unknown"] == books["malformed"] == 0, books
