# lab: timeout=400
"""A real guest that migrates between two hosts' daemons: from an SR-IOV VF to a vDPA device and back. It is on the same
network by both, and its traffic goes on."""

import contextlib
import pathlib
import subprocess
import time

import pytest

from e2e.lib.everport import Everport, port_toml
from e2e.lib.guest import Guest
from e2e.lib.measure import Pinger
from e2e.lib.migration import move
from e2e.lib.process import wait_until
from lab.lib import machine
from lab.lib.everport import BIN, BUILD
from lab.lib.guest import SAVED, SAVED_CONTRACT, SAVED_FILES, SAVED_STATE
from lab.lib.pci import by_mac
from lab.lib.sriov import Pf
from lab.lib.vduse import CountingDevice

HARDWARE = {"a": "vf", "b": "vhost-vdpa"}  # by host
CPU = {"a": 2, "b": 3}
PING_MS = 100
MODE = {"vf": "relay", "vhost-vdpa": "offload"}


def sh(*commands):
    for command in commands:
        subprocess.run(command, shell=True, check=True)


class World:
    """Host a has a VF and a tap for the guest, host b a vDPA device and a tap. The other end of the VF's wire, the device's
    network side and both taps are in one bridge.

    Not another VF in the bridge: the emulated NIC gives a VF its own broadcasts back, and a bridge that hears a guest's
    announcement come back by the VF looks for the guest there.
    """

    def __init__(self, stack, work):
        self.work, self.stack, self.moves = work, stack, 0
        pf = stack.enter_context(Pf())
        (vf,) = pf.make_vfs(1)
        assert vf.mac == SAVED["mac"]
        device = stack.enter_context(CountingDevice("mig0", mode="tap:lab-vdpa"))
        pf.wait_carrier()
        wire = by_mac(machine.mac_of("nic1")).wait_interface()
        sh("ip link add br-lab type bridge", f"ip link set {wire} up master br-lab", "ip link set lab-vdpa up master br-lab",
           "ip address add 10.77.0.1/24 dev br-lab && ip link set br-lab up")
        stack.callback(sh, f"ip link del br-lab && ip link set {wire} down")
        self.interface = {"a": wire, "b": "lab-vdpa"}  # where the network sees the guest, by host
        uplink = {"a": {"kind": "vf", "device": vf.address, "bind": True}, "b": {"kind": "vhost-vdpa", "device": device.node}}
        self.everport, self.socket = {}, {}
        for host in HARDWARE:
            (work / host).mkdir()
            self.socket[host] = work / host / "vm.sock"
            self.everport[host] = Everport(BIN, work / host, pollers=[CPU[host]], idle={"max_sleep_us": 2000}).write_config(
                port_toml("vm", self.socket[host], [uplink[host], {"kind": "tap", "device": f"lab-{host}", "bridge": "br-lab"}],
                          mac=vf.mac, failback_delay_ms=500, contract=SAVED_CONTRACT))
            stack.callback(self.everport[host].stop)
        self.at = "a"
        t0 = time.monotonic()
        self.everport["a"].start()
        self.guest = self.boot("a", SAVED_STATE)
        self.everport["b"].start()
        print("started", time.monotonic() - t0, flush=True)
        self.guest.wait_event("RESUME", 200)
        print("resumed", time.monotonic() - t0, flush=True)
        self.changes = self.guest.carrier_changes()
        print("agent", time.monotonic() - t0, flush=True)
        self.pings = Pinger([], BUILD / "guest_tools/everport-flow", self.guest.address, work, interval_ms=PING_MS)
        stack.callback(self.pings.close)

    def boot(self, host, incoming):
        guest = Guest(SAVED_FILES, self.work / host, self.socket[host], name=f"guest{self.moves}", incoming=incoming, **SAVED)
        self.stack.callback(guest.stop)
        return guest

    def port(self):
        return self.everport[self.at].get("/v1/ports/vm")

    def seen(self, host):
        """Frames from the guest that have come to the network by that host's hardware."""
        return int(pathlib.Path(f"/sys/class/net/{self.interface[host]}/statistics/rx_packets").read_text())

    def wait_hardware(self):
        """The guest is on it, and answers by it."""
        kind = HARDWARE[self.at]
        wait_until(lambda: self.port()["path"]["kind"] == kind, 30, f"{kind} serves the guest", interval=0.1)
        path = self.port()["path"]
        assert path["mode"] == MODE[kind], path
        before = {host: self.seen(host) for host in HARDWARE}
        for _ in range(10):
            self.pings.wait_reply(time.monotonic(), 60)
        after = {host: self.seen(host) - before[host] for host in HARDWARE}
        other = "b" if self.at == "a" else "a"
        assert after[self.at] >= 10 > after[other], f"host {self.at}: frames by {self.interface}: {after}"

    def migrate(self):
        self.moves += 1
        uri, target = f"unix:{self.work}/to{self.moves}", "b" if self.at == "a" else "a"
        arriving = self.boot(target, uri)
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
        t0=time.monotonic()
        world.pings.wait_reply(0, 60)
        print("first reply", time.monotonic()-t0, flush=True)
        world.wait_hardware()
        sh("top -b -n 2 -d 3 | grep -v ' 0.0 ' | tail -25")
        changes = world.changes
        print("carrier changes", changes, time.monotonic()-t0, flush=True)
        offset = time.time() - time.monotonic()
        for _ in HARDWARE:
            source = world.at
            moved = world.migrate()
            assert moved.status == "completed", moved
            back = world.pings.wait_reply(moved.resumed - offset, 60)
            world.wait_hardware()
            on_hardware = time.monotonic()
            print(f"{HARDWARE[source]} to {HARDWARE[world.at]}: downtime {moved.downtime_ms:.0f} ms of {moved.total_ms:.0f}; first answer "
                  f"{1000 * (back + offset - moved.resumed):.0f} ms after RESUME; longest gap "
                  f"{1000 * world.pings.gap(moved.resumed - offset - moved.total_ms / 1000, on_hardware):.0f} ms", flush=True)
            print("moved", time.monotonic()-t0, flush=True)
            assert world.guest.carrier_changes() == changes
    finally:
        world.logs()
    world.pings.stop()
    print(f"{world.pings.lost} of {world.pings.sent} pings each 10 ms lost", flush=True)
    assert world.pings.duplicates == 0
