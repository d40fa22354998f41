"""A port whose first uplink is a vDPA device: the kernel's device serves the guest's rings itself, the guest moves to the
software path and back under load, every frame counted, and goes on there when the device's process dies or the daemon is
killed."""
# lab: timeout=400

import contextlib
import itertools
import json
import os
import pathlib
import signal

import pytest

from e2e.lib.everport import Everport, port_toml
from e2e.lib.process import wait_until
from e2e.lib.timed import bar
from lab.lib.everport import BIN
from lab.lib.flow import FlowGuest, assert_once_each, milliseconds
from lab.lib.vduse import CountingDevice

MAC, PEER_MAC = "52:54:00:00:ee:02", "52:54:00:00:ee:01"
SWITCHES = 100

_serial = itertools.count()  # a device whose process was killed keeps its name for a while


class World:
    """A guest whose port has a vDPA device, which counts what it gets and sends frames of its own, and a tap."""

    def __init__(self, stack, work):
        self.device = stack.enter_context(CountingDevice(f"stream{next(_serial)}", mode="stream"))
        self.everport = Everport(BIN, work)
        socket = work / "vm.sock"
        uplinks = [{"kind": "vhost-vdpa", "device": self.device.node}, {"kind": "tap", "device": "lab-vm"}]
        self.everport.write_config(port_toml("vm", socket, uplinks, mac=MAC, failback_delay_ms=300))
        stack.callback(self.everport.stop)
        self.flow = stack.enter_context(FlowGuest(socket, MAC, PEER_MAC, ["tap"], rate=8000))
        self.everport.start()
        self.flow.wait_connected()
        wait_until(pathlib.Path("/sys/class/net/lab-vm").exists, 10, "the tap is there")
        self.flow.attach("tap", "lab-vm")
        self.wait_path(0)
        self.switch(1)  # what waits in the tap's queue is not counted
        self.flow.phase()
        self.full = self.guest_ring_full()
        self.wait_traffic(1)
        self.switch(0)

    def port(self):
        return self.everport.get("/v1/ports/vm")

    def guest_ring_full(self):
        return self.port()["drops_by_cause"]["guest_ring_full"]

    def wait_path(self, index):
        wait_until(lambda: self.port()["path"]["index"] == index, 20, f"uplink {index} serves the guest")

    def wait_traffic(self, index):
        """Both ways, by this uplink."""
        self.flow.wait_more(*(("taken", "others") if index == 0 else ("tap", "in")))

    def switch(self, index):
        """By hand; returns when there is traffic."""
        wait_until(lambda: self.choose(index), 20, f"uplink {index} can be chosen")
        self.wait_traffic(index)

    def choose(self, index):
        """False: the port is on its way elsewhere just now."""
        try:
            self.everport.post("/v1/ports/vm/path", index=index)
        except RuntimeError as refused:
            if "a switch is under way" in str(refused):
                return False
            raise
        return True

    def events(self):
        return self.everport.ctl_text("events", "--no-follow").stdout


@pytest.fixture
def world(tmp_path):
    with contextlib.ExitStack() as stack:
        yield World(stack, tmp_path)


def describe(what, books, seen):
    out, back, others = books["out"], books["in"], books["others"]
    print(f"{what}: {out['sent']} frames from the guest, of them {seen['received']} to the device in {len(seen['runs'])} runs and "
          f"{out['received']} to the tap in {len(books['paths']['tap']['runs'])}; to the guest {others['received']} of the "
          f"device's {seen['sent']} ({others['missing']} lost, {others['repeated']} doubled or overtaken) and {back['received']} of "
          f"the tap's {back['sent']} ({back['missing']} lost, {back['doubled']} doubled, {back['overtaken']} overtaken)", flush=True)


def assert_rings_exact(books):
    assert books["outstanding"] == books["unknown"] == books["malformed"] == 0, books
    for counts in (books["out"], books["in"]):
        assert counts["doubled"] == counts["overtaken"] == counts["corrupted"] == 0, counts
    assert books["others"]["repeated"] == books["others"]["corrupted"] == 0, books["others"]


def test_a_hundred_switches_under_load_lose_and_double_nothing(world):
    port = world.port()
    assert port["path"]["mode"] == "offload", port
    assert port["poller"] == -1, "no poller is involved"
    world.switch(1)
    for turn in range(SWITCHES):
        world.switch(turn % 2)  # the last one to the tap: nothing waits in its queue then
    books, seen = world.flow.phase(), world.device.stats()["pairs"][0]
    describe(f"{SWITCHES} switches", books, seen)
    assert_rings_exact(books)
    assert_once_each(books["out"]["first"], books["out"]["sent"], seen["runs"], books["paths"]["tap"]["runs"])
    assert books["in"]["late"] == books["others"]["missing"] == 0
    # The device may have filled the guest's ring when the tap's frames come and the guest is not run: that is told.
    assert books["in"]["missing"] == world.guest_ring_full() - world.full
    assert books["others"]["received"] == seen["sent"]
    # Once at the guest's start, and before each move to the device; unless that was given no CPU in time.
    not_made = world.everport.not_announced()
    print(f"{seen['announcements']} announcements by the device, {not_made} not made in time", flush=True)
    assert seen["announcements"] + not_made >= SWITCHES // 2, seen["announcements"]
    assert seen["announcements"] >= SWITCHES // 4, seen["announcements"]
    told = [json.loads(line) for line in world.everport.ctl_text("--json", "events", "--no-follow").stdout.splitlines()]
    gaps = sorted(event["path"]["ms"] for event in told if event.get("path"))
    print(f"by the daemon's account without a path for {gaps[len(gaps) // 2]:.2f} ms (median), {gaps[-1]:.2f} ms (longest)")


def test_the_guest_is_on_the_software_path_while_it_is_migrated(world):
    world.flow.phase()
    for _ in range(3):
        world.wait_traffic(0)
        world.flow.log(True)
        world.wait_path(1)
        world.wait_traffic(1)
        assert "is being migrated" in world.port()["uplinks"][0]["error"], world.port()
        world.flow.log(False)
        world.wait_path(0)
        world.wait_traffic(0)
    world.switch(1)
    books, seen = world.flow.phase(), world.device.stats()["pairs"][0]
    describe("3 migrations that were cancelled", books, seen)
    print(world.events(), world.port()["drops_by_cause"])
    assert_rings_exact(books)
    assert_once_each(books["out"]["first"], books["out"]["sent"], seen["runs"], books["paths"]["tap"]["runs"])


def test_the_device_process_killed(world):
    world.flow.phase()
    world.wait_traffic(0)
    killed = milliseconds()
    os.kill(world.device.pid, signal.SIGKILL)
    world.wait_traffic(1)
    books = world.flow.phase()
    after = books["paths"]["tap"]["first"] - killed
    print(f"device process killed: first frame by the tap after {after:.1f} ms")
    print(world.events())
    assert_rings_exact(books)
    assert 0 < after < bar(500)


def test_the_daemon_killed_on_the_device(world):
    killed = milliseconds()
    world.everport.kill_daemon()
    world.everport.start_daemon()
    world.wait_path(0)
    world.switch(1)
    books, seen = world.flow.phase(), world.device.stats()["pairs"][0]
    describe(f"daemon killed, {milliseconds() - killed:.0f} ms ago", books, seen)
    print(world.events())
    assert_rings_exact(books)
    assert_once_each(books["out"]["first"], books["out"]["sent"], seen["runs"], books["paths"]["tap"]["runs"])
