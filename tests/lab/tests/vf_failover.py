# lab: timeout=400
"""A guest on a VF whose uplink is taken away in every way there is: its traffic, numbered frames to and from the other VF of
the same NIC, goes on by the tap, and comes back to the VF without losing one."""

import contextlib
import json
import pathlib
import subprocess
import sys
import time

import pytest

from e2e.lib.everport import Everport, port_toml
from e2e.lib.process import wait_until
from e2e.lib.timed import bar
from lab.lib.everport import BIN
from lab.lib.flow import FlowGuest, assert_nothing_lost, gap_ms, milliseconds, not_run_ms
from lab.lib.monitor import plug, set_link, unplug
from lab.lib.sriov import Pf

# From the signal to the first frame by the tap. The time without any frame is held to the same, but where the PF is set
# down: its driver stops all traffic and waits 10 to 20 ms before it resets the device, which is the signal.
LIMIT_MS, REMOVAL_LIMIT_MS, RESET_GAP_MS = 20, 50, 50


class World:
    """A guest whose port has the first VF of nic0 and a tap; the network is the second VF, with the kernel's driver, and the
    tap's host side."""

    def __init__(self, stack, work):
        self.pf = stack.enter_context(Pf())
        self.make_vfs()
        self.everport = Everport(BIN, work)
        socket = work / "vm.sock"
        uplinks = [{"kind": "vf", "device": self.vf.address, "bind": True}, {"kind": "tap", "device": "lab-vm"}]
        self.everport.write_config(port_toml("vm", socket, uplinks, mac=self.vf.mac, failback_delay_ms=1000))
        stack.callback(self.everport.stop)
        self.flow = stack.enter_context(FlowGuest(socket, self.vf.mac, self.peer.mac, ["vf", "tap"], rate=2000))
        self.everport.start()
        self.flow.wait_connected()
        wait_until(pathlib.Path("/sys/class/net/lab-vm").exists, 10, "the tap is there")
        self.flow.attach("tap", "lab-vm")
        self.listen()
        self.wait_path(0)
        self.flow.phase()

    def make_vfs(self):
        self.vf, self.peer = self.pf.make_vfs(2)
        self.bind_peer()

    def bind_peer(self):
        """Not before its PF has a link: the driver would look for it again ten seconds later."""
        self.pf.wait_carrier()
        self.peer.bind(None).bind("igbvf")
        interface = self.peer.wait_interface()
        subprocess.run(f"ethtool -G {interface} rx 4096 && ip link set {interface} up", shell=True, check=True)
        self.peer.wait_carrier()

    def listen(self):
        self.flow.attach("vf", self.peer.wait_interface())

    def path(self):
        return self.everport.port("vm")["path"]["index"]

    def wait_path(self, index):
        try:
            wait_until(lambda: self.path() == index, 60, f"uplink {index} serves the guest")
        except TimeoutError:
            print(self.everport.port("vm")["uplinks"], self.events(), sep="\n", flush=True)
            raise

    def told_failed(self, since):
        """When the daemon first said that the VF had failed; on the clock of the books."""
        told = [json.loads(line) for line in self.everport.ctl_text("--json", "events", "--no-follow").stdout.splitlines()]
        offset = milliseconds() - time.time() * 1000
        times = [event["time_unix_us"] / 1000 + offset for event in told if event["message"].startswith("uplink 0 failed")]
        return next(at for at in times if at >= since)

    def events(self):
        return self.everport.ctl_text("events", "--no-follow").stdout


@pytest.fixture
def world(tmp_path):
    with contextlib.ExitStack() as stack:
        yield World(stack, tmp_path)


def fail_over_and_back(world, what, fault, mend, limit, gap_limit=None):
    world.flow.wait_more("vf", "in")
    before = world.flow.phase()
    assert_nothing_lost(before)
    assert before["paths"]["tap"]["received"] == 0
    world.flow.wait_more("vf", "in")
    began = milliseconds()
    fault()
    returned = milliseconds()
    world.wait_path(1)
    world.flow.wait_more("tap", "in")
    failover = world.flow.phase()
    describe(f"{what} (which took {returned - began:.1f} ms)", failover, began)
    told, first = world.told_failed(began), failover["paths"]["tap"]["first"]
    print(f"  last frame by the VF at {failover['paths']['vf']['last'] - began:.1f} ms, told at {told - began:.1f} ms, first frame by "
          f"the tap at {first - began:.1f} ms", flush=True)

    world.everport.ctl_text("path", "vm", "1")  # until the other VF, the network, is ready as well
    mend()
    world.everport.ctl_text("path", "vm", "auto")
    world.wait_path(0)
    world.flow.wait_more("vf", "in")
    failback = world.flow.phase()
    describe(f"{what}: back", failback, began)
    print(world.events())
    assert first - told - not_run_ms(failover, told, first) <= bar(limit)
    for way in ("out", "in"):
        gap, not_run = gap_ms(failover, way)
        assert gap - not_run <= bar(gap_limit or limit), f"{what}: {way}"
        assert failover[way]["doubled"] == 0
    assert failover["out"]["overtaken"] == 0
    assert failback["paths"]["tap"]["received"] > 0 and failback["paths"]["vf"]["received"] > 0
    assert_nothing_lost(failback)


def describe(what, books, began):
    print(f"{what}:")
    for way, name in (("out", "guest to network"), ("in", "network to guest")):
        counts = books[way]
        gap, not_run = gap_ms(books, way)
        print(f"  {name}: {counts['sent']} frames, {counts['missing']} lost, {counts['doubled']} doubled, {counts['overtaken']} "
              f"overtaken; longest gap {gap:.1f} ms ({not_run:.1f} of it not run), from {counts['gap_from'] - began:.1f} ms on")
    for at, name, state in books["links"]:
        print(f"  {at - began:.1f} ms: {name} is {state}")
    sys.stdout.flush()


def test_cable(world):
    def mend():
        set_link("nic0", True)
        world.bind_peer()
        world.listen()

    fail_over_and_back(world, "link taken away", lambda: set_link("nic0", False), mend, LIMIT_MS)


def test_pf_down(world):
    def mend():
        world.pf.set_up(True)
        world.bind_peer()
        world.listen()

    fail_over_and_back(world, "PF set down", lambda: world.pf.set_up(False), mend, LIMIT_MS, RESET_GAP_MS)


def remake(world):
    address = world.vf.address
    world.make_vfs()
    assert world.vf.address == address
    world.listen()


def test_vfs_removed(world):
    fail_over_and_back(world, "sriov_numvfs 0", lambda: (world.pf.path / "sriov_numvfs").write_text("0"), lambda: remake(world),
                       REMOVAL_LIMIT_MS)


def test_pf_unplugged(world):
    def mend():
        plug("nic0")
        world.pf = Pf()
        remake(world)

    fail_over_and_back(world, "PF unplugged", lambda: unplug("nic0"), mend, REMOVAL_LIMIT_MS)
