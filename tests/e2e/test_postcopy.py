"""A guest that moves by post-copy: it runs at its new place while its memory is still coming, and so does its network.

EVERPORT_POSTCOPY_ROUNDS: how many migrations, besides those in which something goes wrong.
"""

import json
import os
import time

import pytest

from lib.migration import EverportBackend, Hosts, Postcopy
from lib.process import wait_until

ROUNDS = int(os.environ.get("EVERPORT_POSTCOPY_ROUNDS", "2"))


def port_of(host):
    return host.backend.everport.get("/v1/ports/vm1")


def begin_traffic(hosts):
    pings = hosts.pinger()
    pings.wait_reply(0, 30)
    flow, receiver = hosts.flow_to_guest(3600)
    flow.wait_progress(0, 30)
    return pings, flow, receiver


def traffic_is_back(pings, flow):
    flow.wait_progress(pings.wait_reply(time.monotonic() + 0.05, 60) + 0.2, 60)


def end_traffic(pings, flow, receiver):
    """Every byte has come as it was sent."""
    sent = flow.finish()
    assert sent["ok"] and json.loads(receiver.result(40).output)["ok"], sent
    pings.stop()
    return sent


def refused_for_want_of_a_daemon(hosts, pings):
    """By the keeper, before the guest has left."""
    there = hosts.hosts[1 - hosts.at].backend.everport
    there.kill_daemon()
    moved = hosts.migrate(postcopy=Postcopy())
    assert moved.status == "failed", moved
    assert hosts.guest.qmp("query-status")["status"] == "running"
    pings.wait_reply(time.monotonic() + 0.05, 30)
    there.start_daemon()


def there_and_back(hosts, pings, flow):
    """The network is back while pages are missing."""
    moves, missing, rate = [], [], 12 << 20

    def answered(arriving):
        pings.wait_reply(time.monotonic() + 0.05, 60)
        missing.append(arriving.qmp("query-migrate")["status"] == "postcopy-active")

    # Where all has come before the guest could answer (a slow machine), it comes more slowly the next time.
    while len(moves) < ROUNDS or (not any(missing) and len(moves) < ROUNDS + 4):
        moved = hosts.migrate(postcopy=Postcopy(answered, rate), timeout=120)
        assert moved.status == "completed", f"migration {len(moves)}: {moved}"
        assert moved.fetched > 0, f"migration {len(moves)} was over before post-copy had anything to do: {moved}"
        traffic_is_back(pings, flow)
        moves.append(moved)
        rate = rate if missing[-1] else rate // 2
    assert any(missing), moves
    return moves


def with_a_daemon_killed(hosts, pings, flow):
    """While pages are missing nobody can take its place: the network pauses, the link and the guest do not."""
    target = hosts.hosts[1 - hosts.at]
    replays = []

    def kill(arriving):
        wait_until(lambda: port_of(target)["state"] == "running", 30, "the guest's port runs at the destination")
        target.backend.everport.kill_daemon()
        target.backend.everport.start_daemon()
        wait_until(lambda: "post-copy under way" in port_of(target)["reason"], 30, "the new daemon is held back")
        assert port_of(target)["postcopy_progress"]["phase"] == "listening"
        replays.append(port_of(target)["replays"])

    moved = hosts.migrate(postcopy=Postcopy(kill), timeout=120)
    assert moved.status == "completed", moved
    assert replays == [0]
    traffic_is_back(pings, flow)
    port = port_of(target)
    assert (port["reason"], port["postcopy_progress"]["phase"]) == ("", "none")
    assert port["postcopy_progress"]["completed"] == 1  # the daemon that took over has seen its end
    return moved


def refused_where_it_is_not_offered(hosts, pings):
    """By QEMU, at the destination; the ordinary way is open."""
    there = hosts.hosts[1 - hosts.at]
    there.backend.everport.reload(*there.backend.ports(postcopy=False))
    with pytest.raises(RuntimeError, match="not capable of postcopy"):
        hosts.migrate(postcopy=Postcopy())
    pings.wait_reply(time.monotonic() + 0.05, 30)
    assert hosts.migrate().status == "completed"


@pytest.mark.parametrize("ring", ["split", "packed"])
def test_postcopy(guest_files, ring):
    with Hosts("pc", guest_files, EverportBackend, packed=ring == "packed", postcopy=True) as hosts:
        hosts.start()
        changes = hosts.guest.carrier_changes()
        pings, flow, receiver = begin_traffic(hosts)
        refused_for_want_of_a_daemon(hosts, pings)
        moves = there_and_back(hosts, pings, flow)
        killed = with_a_daemon_killed(hosts, pings, flow)
        refused_where_it_is_not_offered(hosts, pings)
        traffic_is_back(pings, flow)
        sent = end_traffic(pings, flow, receiver)
        print(f"\n{ring} rings, {len(moves)} migrations: ms away {[m.downtime_ms for m in moves]}, pages fetched "
              f"{[m.fetched for m in moves]}; one with the daemon killed: {killed.total_ms / 1000:.1f} s; "
              f"{pings.lost} of {pings.sent} pings lost, longest TCP stall {sent['longest_stall_ms']:.0f} ms, "
              f"{sent['bytes'] / 1e6:.0f} MB")
        assert hosts.guest.carrier_changes() == changes
