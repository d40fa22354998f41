"""Guests that migrate between hosts whose ports have other uplinks: every kind that a host without NICs can have."""

import json
import time

import pytest

from lib.measure import Pinger, median
from lib.migration import EverportBackend, Hosts
from lib.uplinks import KINDS

PORTS = 16


@pytest.mark.parametrize("kinds", [("tap", "af_xdp"), ("af_xdp", "memif"), ("memif", "tap")], ids="-".join)
def test_there_and_back(guest_files, kinds):
    with Hosts("migkind", guest_files, EverportBackend, kinds=lambda host, _: kinds[host]) as hosts:
        hosts.start()
        changes = hosts.guest.carrier_changes()
        pings = hosts.pinger()
        flow, receiver = hosts.flow_to_guest(3600)
        flow.wait_progress(pings.wait_reply(0, 20), 20)
        downtimes = []
        for _ in kinds:
            moved = hosts.migrate()
            assert moved.status == "completed", moved
            downtimes.append(moved.downtime_ms)
            flow.wait_progress(pings.wait_reply(time.monotonic() + 0.05, 20) + 0.3, 20)
        sent = flow.finish()
        assert sent["ok"] and json.loads(receiver.result(40).output)["ok"], sent
        pings.stop()
        print(f"\n{' to '.join((*kinds, kinds[0]))}: downtime {downtimes[0]} and {downtimes[1]} ms, {pings.lost} of {pings.sent} "
              f"pings lost, TCP {sent['bytes'] / 1e6:.0f} MB, every byte as sent, longest stall {sent['longest_stall_ms']:.0f} ms")
        assert hosts.guest.carrier_changes() == changes
        assert pings.duplicates == 0


def network_of(nic):
    return f"10.77.{nic}.%d/24"


class ManyNics:
    """Each NIC of a guest has a network of its own, all of them in one bridge."""

    def __init__(self, hosts):
        self.hosts = hosts
        guest = hosts.guest
        guest.run("echo 1 > /proc/sys/net/ipv4/conf/all/arp_ignore; echo 2 > /proc/sys/net/ipv4/conf/all/arp_announce")
        for nic in range(1, hosts.nics):
            guest.run(f"ip address add {network_of(nic) % 2} dev eth{nic} && ip link set eth{nic} up")
            hosts.net.ip("address", "add", network_of(nic) % 1, "dev", hosts.net.bridge)
        self.pings = [self._ping(nic) for nic in range(hosts.nics)]

    def _ping(self, nic):
        folder = self.hosts.work / f"ping{nic}"
        folder.mkdir()
        pings = Pinger(self.hosts.net.prefix(), self.hosts.flow_program, (network_of(nic) % 2).split("/")[0], folder,
                       interval_ms=50)
        self.hosts._closers.callback(pings.close)
        return pings

    def wait_replies(self, after):
        for pings in self.pings:
            pings.wait_reply(after, 30)

    def carrier_changes(self):
        return [self.hosts.guest.carrier_changes(f"eth{nic}") for nic in range(self.hosts.nics)]


def test_sixteen_ports_of_all_kinds_together(guest_files):
    with Hosts("migmany", guest_files, EverportBackend, nics=PORTS,
               kinds=lambda host, nic: KINDS[(nic + host) % len(KINDS)]) as hosts:
        hosts.start()
        nics = ManyNics(hosts)
        nics.wait_replies(0)
        changes = nics.carrier_changes()
        downtimes = []
        for _ in range(2):
            moved = hosts.migrate()
            assert moved.status == "completed", moved
            downtimes.append(moved.downtime_ms)
            nics.wait_replies(time.monotonic() + 0.05)
        assert nics.carrier_changes() == changes
        for pings in nics.pings:
            pings.stop()
        lost = [pings.lost for pings in nics.pings]
        print(f"\n{PORTS} ports of {', '.join(KINDS)}, each of another kind at the other host: downtimes "
              f"{' and '.join(f'{ms:.0f}' for ms in downtimes)} ms; of {nics.pings[0].sent} pings each 50 ms a port lost "
              f"{median(lost):.0f} (median), {max(lost)} (most)")
        assert all(pings.duplicates == 0 for pings in nics.pings)
