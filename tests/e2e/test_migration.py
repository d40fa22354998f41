"""A guest that migrates back and forth between two hosts: its traffic goes on, every byte as sent. How long it is away is
measured beside the peer, in the same run.

EVERPORT_MIGRATIONS: how many, of each backend. EVERPORT_MIGRATION_RATE: bytes a second of the TCP stream, the same for both: what
the stream writes into the guest's memory is what QEMU has to send while the guest is away, and everport alone could carry more.
"""

import json
import os
import threading
import time

import pytest

from lib.measure import median
from lib.migration import EverportBackend, Hosts, TestpmdBackend
from lib.timed import bar

MIGRATIONS = int(os.environ.get("EVERPORT_MIGRATIONS", "6"))
RATE = int(os.environ.get("EVERPORT_MIGRATION_RATE", "25000000"))
SETTLE_S = 0.5
FIRST_PACKET_MS = 10


def move_about(hosts, migrations):
    """Under a checksummed TCP stream and pings each 10 ms; (downtimes in ms, pings lost in all)."""
    pings = hosts.pinger()
    pings.wait_reply(0, 20)
    flow, receiver = hosts.flow_to_guest(3600, rate=RATE)
    progress = flow.wait_progress(0, 20)
    downtimes = []
    for number in range(1, migrations + 1):
        moved = hosts.migrate()
        assert moved.status == "completed", f"migration {number}: {moved}"
        downtimes.append(moved.downtime_ms)
        # Traffic is back, and some more of it.
        progress = flow.wait_progress(pings.wait_reply(time.monotonic() + 0.05, 20) + SETTLE_S, 20)
        pings.wait_reply(progress, 20)
    sent = flow.finish()
    assert sent["ok"] and json.loads(receiver.result(40).output)["ok"], sent
    pings.stop()
    return downtimes, pings, sent


@pytest.mark.parametrize("ring", ["split", "packed"])
def test_back_and_forth(guest_files, ring):
    table = {}
    for backend in (TestpmdBackend, EverportBackend):
        with Hosts("mig", guest_files, backend, packed=ring == "packed") as hosts:
            hosts.start()
            changes = hosts.guest.carrier_changes()
            downtimes, pings, sent = move_about(hosts, MIGRATIONS)
            assert pings.duplicates == 0
            if backend is EverportBackend:
                assert hosts.guest.carrier_changes() == changes
            table[backend.name] = (median(downtimes), max(downtimes), pings.lost, sent["longest_stall_ms"], sent["bytes"] / 1e6)
    print(f"\n{ring} rings, {MIGRATIONS} migrations each under TCP ({RATE / 1e6:.0f} MB/s) and pings each 10 ms\n"
          "backend   downtime ms: median  longest  pings lost  longest TCP stall ms  TCP MB, every byte as sent")
    for name, (middle, longest, lost, stall, megabytes) in table.items():
        print(f"{name:9} {middle:19.0f} {longest:8.0f} {lost:11} {stall:21.0f} {megabytes:8.0f}")
    ours, theirs = table["everport"], table["testpmd"]
    print(f"everport/testpmd: downtime {ours[0] / theirs[0]:.2f}, pings lost {ours[2] / max(1, theirs[2]):.2f}")


class FirstFrame(threading.Thread):
    """When the first frame since this was made was in the guest's receive ring, by a host's daemon: looked at each ms."""

    def __init__(self, host):
        super().__init__(daemon=True)
        self.everport, self.at = host.backend.everport, None
        self.before = self._received()
        self.start()

    def _received(self):
        return self.everport.get("/v1/ports/vm1")["rx_packets"]

    def run(self):
        while self._received() == self.before:
            time.sleep(0.001)
        self.at = time.time()


def arrivals(hosts, migrations):
    """After each arrival, ms from the destination's RESUME to the first ping in the guest's ring (everport alone tells it)
    and to the first reply; pings go out each 2 ms."""
    offset = time.time() - time.monotonic()
    pings = hosts.pinger(interval_ms=2)
    rings, replies = [], []
    for _ in range(migrations):
        pings.wait_reply(time.monotonic(), 20)
        target = hosts.hosts[1 - hosts.at]
        first = FirstFrame(target) if isinstance(target.backend, EverportBackend) else None
        moved = hosts.migrate()
        assert moved.status == "completed", moved
        replies.append(1000 * (pings.wait_reply(moved.resumed - offset, 20) + offset - moved.resumed))
        if first:
            first.join(20)
            rings.append(1000 * (first.at - moved.resumed))
    pings.stop()
    return rings, replies


@pytest.mark.parametrize("announce", ["guest", "backend"])
def test_the_network_finds_the_guest_at_its_new_place(guest_files, announce):
    """guest: it announces itself as well (VIRTIO_NET_F_GUEST_ANNOUNCE); backend: QEMU asks for it (SEND_RARP)."""
    table = {}
    options = "guest_announce=" + ("on" if announce == "guest" else "off")
    for backend in (TestpmdBackend, EverportBackend):
        with Hosts("migfirst", guest_files, backend, device_options=options) as hosts:
            hosts.start()
            table[backend.name] = arrivals(hosts, MIGRATIONS)
    print(f"\nannounced by: {announce}; {MIGRATIONS} arrivals each; ms from the destination's RESUME, median and longest\n"
          "backend   to the first frame in the guest's ring   to its first answer (the guest emulated anew)")
    for name, (rings, replies) in table.items():
        in_ring = f"{median(rings):20.1f} {max(rings):8.1f}" if rings else f"{'not told':>20} {'':8}"
        print(f"{name:9} {in_ring} {median(replies):20.1f} {max(replies):8.1f}")
    assert median(table["everport"][0]) <= bar(FIRST_PACKET_MS)


@pytest.mark.parametrize("side", ["source", "destination"])
@pytest.mark.parametrize("ring", ["split", "packed"])
def test_a_daemon_killed_in_the_middle(guest_files, ring, side):
    with Hosts("migkill", guest_files, EverportBackend, packed=ring == "packed") as hosts:
        hosts.start()
        changes = hosts.guest.carrier_changes()
        pings = hosts.pinger()
        flow, receiver = hosts.flow_to_guest(3600)
        flow.wait_progress(pings.wait_reply(0, 20), 20)
        for _ in range(2):
            victim = hosts.hosts[hosts.at if side == "source" else 1 - hosts.at].backend.everport

            def kill(_):
                victim.kill_daemon()
                victim.start_daemon()

            moved = hosts.migrate(before_switch=kill, compare=True)
            assert moved.status == "completed", moved
            assert moved.differing == [], "the memory that was sent is not the source's"
            flow.wait_progress(pings.wait_reply(time.monotonic() + 0.05, 20) + SETTLE_S, 20)
        sent = flow.finish()
        assert sent["ok"] and json.loads(receiver.result(40).output)["ok"], sent
        pings.stop()
        print(f"\n{ring} rings, daemon killed at the {side}: longest TCP stall {sent['longest_stall_ms']:.0f} ms, "
              f"{pings.lost} of {pings.sent} pings lost")
        assert hosts.guest.carrier_changes() == changes
