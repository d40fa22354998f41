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
from lib.timed import bar, beside_peer

MIGRATIONS = int(os.environ.get("EVERPORT_MIGRATIONS", "6"))
RATE = int(os.environ.get("EVERPORT_MIGRATION_RATE", "25000000"))
SETTLE_S = 0.5
FIRST_PACKET_MS = 10
BESIDE_PEER = 1.05


class Account:
    """What the migrations of one backend came to."""

    def __init__(self):
        self.downtimes = []  # ms, by QEMU
        self.lost = 0  # pings
        self.stall = 0.0  # ms, of the TCP stream
        self.megabytes = 0.0
        self.broken = 0  # how often a guest's network did not come back after a migration; such a one is not in the rest


def move_about(hosts, account):
    """Under a checksummed TCP stream and pings each 10 ms, until the account is full."""
    flow, receiver = hosts.flow_to_guest(3600, rate=RATE)
    progress = flow.wait_progress(0, 20)
    while len(account.downtimes) < MIGRATIONS:
        pings = hosts.pinger()
        pings.wait_reply(progress, 20)
        moved = hosts.migrate()
        assert moved.status == "completed", f"migration {len(account.downtimes) + 1}: {moved}"
        # Traffic is back, and some more of it.
        progress = flow.wait_progress(pings.wait_reply(time.monotonic() + 0.05, 20) + SETTLE_S, 20)
        pings.wait_reply(progress, 20)
        pings.stop()
        assert pings.duplicates == 0
        account.downtimes.append(moved.downtime_ms)
        account.lost += pings.lost
    sent = flow.finish()
    assert sent["ok"] and json.loads(receiver.result(40).output)["ok"], sent
    account.stall = max(account.stall, sent["longest_stall_ms"])
    account.megabytes += sent["bytes"] / 1e6


def account_of(backend, guest_files, **options):
    """A guest of the peer's that has lost its network is told and replaced: that it happens is no fault of ours, and what it
    did until then counts. testpmd does so now and then with packed rings."""
    account = Account()
    while len(account.downtimes) < MIGRATIONS:
        with Hosts("mig", guest_files, backend, **options) as hosts:
            hosts.start()
            changes = hosts.guest.carrier_changes()
            try:
                move_about(hosts, account)
            except TimeoutError as error:
                account.broken += 1
                if backend is EverportBackend or account.broken > MIGRATIONS:
                    raise
                print(f"\n{backend.name}: after {len(account.downtimes)} migrations: {str(error).splitlines()[0]}")
                continue
            if backend is EverportBackend:
                assert hosts.guest.carrier_changes() == changes
    return account


@pytest.mark.parametrize("ring", ["split", "packed"])
def test_back_and_forth(guest_files, ring):
    table = {backend.name: account_of(backend, guest_files, packed=ring == "packed")
             for backend in (TestpmdBackend, EverportBackend)}
    print(f"\n{ring} rings, {MIGRATIONS} migrations each under TCP ({RATE / 1e6:.0f} MB/s) and pings each 10 ms\n"
          "backend   downtime ms: median  longest  pings lost  longest TCP stall ms  TCP MB, every byte as sent  "
          "guests without network")
    for name, account in table.items():
        print(f"{name:9} {median(account.downtimes):19.0f} {max(account.downtimes):8.0f} {account.lost:11} {account.stall:21.0f} "
              f"{account.megabytes:27.0f} {account.broken:23}")
    ours, theirs = table["everport"], table["testpmd"]
    downtime, lost = median(ours.downtimes) / median(theirs.downtimes), ours.lost / max(1, theirs.lost)
    print(f"everport/testpmd: downtime {downtime:.2f}, pings lost {lost:.2f}")
    assert max(downtime, lost) <= beside_peer(BESIDE_PEER)


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
