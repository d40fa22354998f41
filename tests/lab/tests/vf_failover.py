# lab: timeout=400
"""A guest on a VF whose uplink is taken away in every way there is: its traffic, numbered frames to and from the other VF of
the same NIC, goes on by the tap, and comes back to the VF without losing one."""

import contextlib
import pathlib
import subprocess

import pytest

from e2e.lib.everport import Everport, port_toml
from e2e.lib.process import wait_until
from lab.lib.everport import BIN
from lab.lib.flow import FlowGuest, assert_nothing_lost, milliseconds
from lab.lib.monitor import plug, set_link, unplug
from lab.lib.sriov import Pf

BAR_MS, REMOVAL_BAR_MS = 20, 50  # from the signal to the first frame by the tap
FAILBACK_MS = 3000               # longer than the other VF's driver takes to see its link again


class World:
    """A guest whose port has the first VF of nic0 and a tap; the network is the second VF, with the kernel's driver, and the
    tap's host side."""

    def __init__(self, stack, work):
        self.pf = stack.enter_context(Pf())
        self.make_vfs()
        self.everport = Everport(BIN, work)
        socket = work / "vm.sock"
        uplinks = [{"kind": "vf", "device": self.vf.address, "bind": True}, {"kind": "tap", "device": "lab-vm"}]
        self.everport.write_config(port_toml("vm", socket, uplinks, mac=self.vf.mac, failback_delay_ms=FAILBACK_MS))
        stack.callback(self.everport.stop)
        self.flow = stack.enter_context(FlowGuest(socket, self.vf.mac, self.peer.mac, ["vf", "tap"]))
        self.everport.start()
        self.flow.wait_connected()
        wait_until(pathlib.Path("/sys/class/net/lab-vm").exists, 10, "the tap is there")
        self.flow.attach("tap", "lab-vm")
        self.listen()
        self.wait_path(0)
        self.flow.phase()

    def make_vfs(self):
        self.vf, self.peer = self.pf.make_vfs(2)
        self.peer.bind("igbvf")
        interface = self.peer.wait_interface()
        subprocess.run(["ip", "link", "set", interface, "up"], check=True)
        self.wait_carrier()

    def wait_carrier(self):
        carrier = self.peer.path / "net" / self.peer.wait_interface() / "carrier"
        wait_until(lambda: carrier.read_text().strip() == "1", 20, f"{self.peer} has a link")

    def listen(self):
        self.flow.attach("vf", self.peer.wait_interface())

    def path(self):
        return self.everport.port("vm")["path"]["index"]

    def wait_path(self, index):
        wait_until(lambda: self.path() == index, 30, f"uplink {index} serves the guest")

    def let_pass(self, frames=1000):
        """Returns when as many more have come from the guest."""
        before = self.everport.port("vm")["tx_packets"]
        wait_until(lambda: self.everport.port("vm")["tx_packets"] > before + frames, 20, "the guest's traffic passes")

    def events(self):
        return self.everport.ctl_text("events", "--no-follow").stdout


@pytest.fixture
def world(tmp_path):
    with contextlib.ExitStack() as stack:
        yield World(stack, tmp_path)


def fail_over_and_back(world, what, fault, mend, bar):
    world.let_pass()
    before = world.flow.phase()
    assert_nothing_lost(before)
    assert before["paths"]["tap"]["received"] == 0
    world.let_pass()
    began = milliseconds()
    fault()
    returned = milliseconds()
    world.wait_path(1)
    world.let_pass()
    failover = world.flow.phase()
    describe(what, failover, began, returned)

    mend()
    world.wait_path(0)
    world.let_pass()
    failback = world.flow.phase()
    describe(f"{what}: back", failback, began, returned)
    print(world.events())
    assert failback["paths"]["tap"]["received"] > 0 and failback["paths"]["vf"]["received"] > 0
    assert_nothing_lost(failback)


def describe(what, books, began, returned):
    out, back = books["out"], books["in"]
    print(f"{what}: fault took {returned - began:.1f} ms; links " +
          ", ".join(f"{name} {is_} at {at - began:.1f}" for at, name, is_ in books["links"]))
    for way, counts in (("out", out), ("in", back)):
        print(f"  {way}: {counts['sent']} sent, {counts['missing']} missing, doubled {counts['doubled']}, overtaken {counts['overtaken']}, turns {counts['turns']}, longest gap "
              f"{counts['gap_ms']:.1f} ms from {counts['gap_from'] - began:.1f} to {counts['gap_to'] - began:.1f}")
    for name, path in books["paths"].items():
        print(f"  {name}: {path['received']} first {path['first'] - began:.1f} last {path['last'] - began:.1f}")
    print(f"  own pause {books['longest_pause_ms']:.1f}", flush=True)


def test_cable(world):
    def mend():
        set_link("nic0", True)
        world.wait_carrier()

    fail_over_and_back(world, "link taken away", lambda: set_link("nic0", False), mend, BAR_MS)


def test_pf_down(world):
    def mend():
        world.pf.set_up(True)
        world.wait_carrier()

    fail_over_and_back(world, "PF set down", lambda: world.pf.set_up(False), mend, BAR_MS)


def remake(world):
    address = world.vf.address
    world.make_vfs()
    assert world.vf.address == address
    world.listen()


def test_vfs_removed(world):
    fail_over_and_back(world, "sriov_numvfs 0", lambda: (world.pf.path / "sriov_numvfs").write_text("0"), lambda: remake(world),
                       REMOVAL_BAR_MS)


def test_pf_unplugged(world):
    def mend():
        plug("nic0")
        world.pf = Pf()
        remake(world)

    fail_over_and_back(world, "PF unplugged", lambda: unplug("nic0"), mend, REMOVAL_BAR_MS)
