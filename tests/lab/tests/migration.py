# lab: timeout=600
"""A real guest that migrates between two hosts' daemons: from an SR-IOV VF to a vDPA device and back. It is on the same
network by both, and its traffic goes on."""

import contextlib
import subprocess
import time

import pytest

from e2e.lib.everport import Everport, port_toml
from e2e.lib.guest import Guest
from e2e.lib.measure import Pinger
from e2e.lib.migration import move
from e2e.lib.process import wait_until
from lab.lib.everport import BIN, BUILD
from lab.lib.guest import guest_files
from lab.lib.sriov import Pf
from lab.lib.vduse import CountingDevice

HARDWARE = {"a": "vf", "b": "vhost-vdpa"}  # by host


def sh(*commands):
    for command in commands:
        subprocess.run(command, shell=True, check=True)


class World:
    """Host a has a VF and a tap for the guest, host b a vDPA device and a tap. The other VF, the device's network side and
    both taps are in one bridge."""

    def __init__(self, stack, work):
        self.work, self.stack, self.moves = work, stack, 0
        pf = stack.enter_context(Pf())
        vf, peer = pf.make_vfs(2)
        self.mac = vf.mac
        self.device = stack.enter_context(CountingDevice("mig0", mode="tap:lab-vdpa"))
        pf.wait_carrier()
        other = peer.bind("igbvf").wait_interface()
        sh(f"ip link set {other} up")
        peer.wait_carrier()
        # A VF hears what is sent to its own address only: the bridge has that. tests/guest_kill.py says why without VLAN.
        sh("ip link add br-lab type bridge vlan_default_pvid 0", f"ip link set br-lab address {peer.mac}",
           f"ip link set {other} master br-lab && ip link set lab-vdpa up master br-lab",
           "ip address add 10.77.0.1/24 dev br-lab && ip link set br-lab up")
        stack.callback(sh, "ip link del br-lab")
        uplink = {"a": {"kind": "vf", "device": vf.address, "bind": True},
                  "b": {"kind": "vhost-vdpa", "device": self.device.node}}
        self.everport, self.socket = {}, {}
        for host in HARDWARE:
            (work / host).mkdir()
            self.socket[host] = work / host / "vm.sock"
            self.everport[host] = Everport(BIN, work / host).write_config(
                port_toml("vm", self.socket[host], [uplink[host], {"kind": "tap", "device": f"lab-{host}", "bridge": "br-lab"}],
                          mac=self.mac, failback_delay_ms=500, contract="minimal-1"))  # which the device covers
            stack.callback(self.everport[host].stop)
            self.everport[host].start()
        self.files = guest_files(work)
        self.at = "a"
        self.guest = self.boot("a").wait_booted(300)
        self.pings = Pinger([], BUILD / "guest_tools/everport-flow", "10.77.0.2", work)
        stack.callback(self.pings.close)

    def boot(self, host, incoming=None):
        guest = Guest(self.files, self.work / host, self.socket[host], mac=self.mac, name=f"guest{self.moves}", incoming=incoming)
        self.stack.callback(guest.stop)
        return guest

    def port(self):
        return self.everport[self.at].port("vm")

    def wait_hardware(self):
        wait_until(lambda: self.port()["path"]["kind"] == HARDWARE[self.at], 30, f"{HARDWARE[self.at]} serves the guest")

    def migrate(self):
        self.moves += 1
        uri, target = f"unix:{self.work}/to{self.moves}", "b" if self.at == "a" else "a"
        arriving = self.boot(target, incoming=uri)
        moved = move(self.guest, arriving, uri, timeout=200)
        if moved.status == "completed":
            self.guest, self.at = arriving, target
        return moved

    def logs(self):
        for host, everport in self.everport.items():
            print(f"--- host {host}\n{everport.ctl_text('events', '--no-follow', check=False).stdout}", flush=True)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    with contextlib.ExitStack() as stack:
        yield World(stack, tmp_path_factory.mktemp("mig"))


def test_from_a_vf_to_a_vdpa_device_and_back(world):
    try:
        world.wait_hardware()
        world.pings.wait_reply(0, 60)
        changes = world.guest.carrier_changes()
        offset = time.time() - time.monotonic()
        for _ in HARDWARE:
            source = world.at
            moved = world.migrate()
            assert moved.status == "completed", moved
            back = world.pings.wait_reply(moved.resumed - offset, 60)
            world.wait_hardware()
            on_hardware = world.pings.wait_reply(time.monotonic() + 0.2, 60)
            print(f"{HARDWARE[source]} to {HARDWARE[world.at]}: downtime {moved.downtime_ms:.0f} ms of {moved.total_ms:.0f}; first answer "
                  f"{1000 * (back + offset - moved.resumed):.0f} ms after RESUME; longest gap "
                  f"{1000 * world.pings.gap(moved.resumed - offset - moved.total_ms / 1000, on_hardware):.0f} ms", flush=True)
            assert world.guest.carrier_changes() == changes
    finally:
        world.logs()
    world.pings.stop()
    print(f"{world.pings.lost} of {world.pings.sent} pings each 10 ms lost", flush=True)
    assert world.pings.duplicates == 0
