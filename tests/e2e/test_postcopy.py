"""A guest that moves by post-copy: it runs at its new place while its memory is still coming, and so does its network.

EVERPORT_POSTCOPY_ROUNDS: how many there and back.
"""

import json
import os
import time

import pytest

from lib.migration import EverportBackend, Hosts, Postcopy
from lib.process import wait_until

ROUNDS = int(os.environ.get("EVERPORT_POSTCOPY_ROUNDS", "3"))


def port_of(host):
    return host.backend.everport.get("/v1/ports/vm1")


def begin_traffic(hosts):
    pings = hosts.pinger()
    pings.wait_reply(0, 20)
    flow, receiver = hosts.flow_to_guest(3600)
    flow.wait_progress(0, 20)
    return pings, flow, receiver


def traffic_is_back(pings, flow):
    flow.wait_progress(pings.wait_reply(time.monotonic() + 0.05, 30) + 0.2, 30)


def end_traffic(pings, flow, receiver):
    """Every byte has come as it was sent."""
    sent = flow.finish()
    assert sent["ok"] and json.loads(receiver.result(40).output)["ok"], sent
    pings.stop()
    return sent


@pytest.mark.parametrize("ring", ["split", "packed"])
def test_there_and_back(guest_files, ring):
    with Hosts("pc", guest_files, EverportBackend, packed=ring == "packed", postcopy=True) as hosts:
        hosts.start()
        changes = hosts.guest.carrier_changes()
        pings, flow, receiver = begin_traffic(hosts)
        moves = []
        for number in range(2 * ROUNDS):
            moved = hosts.migrate(postcopy=Postcopy())
            assert moved.status == "completed", f"migration {number}: {moved}"
            assert moved.fetched > 0, f"migration {number} was over before post-copy had anything to do: {moved}"
            traffic_is_back(pings, flow)
            moves.append(moved)
        sent = end_traffic(pings, flow, receiver)
        print(f"\n{ring} rings, {2 * ROUNDS} migrations: ms away {[m.downtime_ms for m in moves]}, "
              f"pages fetched {[m.fetched for m in moves]}, {pings.lost} of {pings.sent} pings lost, "
              f"longest TCP stall {sent['longest_stall_ms']:.0f} ms, {sent['bytes'] / 1e6:.0f} MB")
        assert hosts.guest.carrier_changes() == changes


@pytest.mark.parametrize("ring", ["split", "packed"])
def test_a_daemon_killed_while_pages_are_missing(guest_files, ring):
    """Nobody can take its place before all pages are here: the network pauses, the link and the guest do not."""
    with Hosts("pckill", guest_files, EverportBackend, packed=ring == "packed", postcopy=True) as hosts:
        hosts.start()
        changes = hosts.guest.carrier_changes()
        pings, flow, receiver = begin_traffic(hosts)
        target = hosts.hosts[1]
        seen = {}

        def kill(arriving):
            wait_until(lambda: port_of(target)["state"] == "running", 20, "the guest's port runs at the destination")
            target.backend.everport.kill_daemon()
            target.backend.everport.start_daemon()
            wait_until(lambda: "post-copy under way" in port_of(target)["reason"], 20, "the new daemon is held back")
            seen["replays"] = port_of(target)["replays"]
            seen["status"] = arriving.qmp("query-migrate")["status"]

        moved = hosts.migrate(postcopy=Postcopy(after=4 << 20, meanwhile=kill))
        assert moved.status == "completed", moved
        assert seen["replays"] == 0
        assert seen["status"] != "completed", "the migration was over before the daemon was killed"
        traffic_is_back(pings, flow)
        assert port_of(target)["reason"] == ""
        sent = end_traffic(pings, flow, receiver)
        print(f"\n{ring} rings, daemon killed: {moved}, {pings.lost} of {pings.sent} pings lost, "
              f"longest TCP stall {sent['longest_stall_ms']:.0f} ms")
        assert hosts.guest.carrier_changes() == changes


def test_refused_where_it_is_not_offered(guest_files):
    with Hosts("pcoff", guest_files, EverportBackend) as hosts:
        hosts.start()
        pings = hosts.pinger()
        pings.wait_reply(0, 20)
        with pytest.raises(RuntimeError, match="not capable of postcopy"):
            hosts.migrate(postcopy=Postcopy())
        pings.wait_reply(time.monotonic() + 0.05, 20)
        assert hosts.migrate().status == "completed"  # the ordinary way
        pings.wait_reply(time.monotonic() + 0.05, 20)


def test_without_a_daemon_at_the_destination_the_guest_stays(guest_files):
    with Hosts("pcnone", guest_files, EverportBackend, postcopy=True) as hosts:
        hosts.start()
        pings = hosts.pinger()
        pings.wait_reply(0, 20)
        hosts.hosts[1].backend.everport.kill_daemon()
        moved = hosts.migrate(postcopy=Postcopy())
        assert moved.status == "failed", moved
        pings.wait_reply(time.monotonic() + 0.05, 20)
        assert hosts.guest.qmp("query-status")["status"] == "running"
