# lab: timeout=400
"""A guest on a VF whose uplink is taken away in every way there is: its traffic goes on by the tap, and comes back to the VF."""

import contextlib
import json
import time

import pytest

from e2e.lib.everport import Everport, port_toml
from e2e.lib.process import wait_until
from lab.lib.everport import BIN
from lab.lib.monitor import plug, set_link, unplug
from lab.lib.sriov import Pf
from lab.lib.testpmd import Testpmd


@pytest.fixture
def world(tmp_path):
    """A guest that sends all the time, on the first VF of nic0."""
    with contextlib.ExitStack() as stack:
        pf = stack.enter_context(Pf())
        vf, _ = pf.make_vfs(2, driver="vfio-pci")
        everport = Everport(BIN, tmp_path)
        socket = tmp_path / "vm.sock"
        everport.write_config(port_toml("vm", socket, [{"kind": "vf", "device": vf.address, "bind": True},
                                                       {"kind": "tap", "device": "lab-vm"}],
                                        mac=vf.mac, failback_delay_ms=300))
        stack.callback(everport.stop)
        everport.start()
        guest = stack.enter_context(Testpmd("guest", vdevs=[f"net_virtio_user0,path={socket},server=1"],
                                            eal=["--single-file-segments"], options=["--forward-mode=txonly"]))
        guest.command("start")
        wait_until(lambda: path(everport) == 0, 20, "the VF serves the guest")
        yield pf, vf, everport


def path(everport):
    return everport.port("vm")["path"]["index"]


def expect_traffic(everport, why):
    before = everport.port("vm")["tx_packets"]
    wait_until(lambda: everport.port("vm")["tx_packets"] > before + 100, 10, why)


def switches(everport):
    events = [json.loads(line) for line in everport.ctl_text("--json", "events", "--no-follow").stdout.splitlines()]
    return [event for event in events if event.get("path") and event["path"]["from"] >= 0]


def fail_and_recover(everport, fault, mend, what):
    expect_traffic(everport, "the guest's traffic passes the VF")
    seen = len(switches(everport))
    start = time.time()
    fault()
    done = time.time()
    wait_until(lambda: path(everport) == 1, 10, f"{what}: the tap takes over")
    expect_traffic(everport, f"{what}: the guest's traffic goes on")
    event = switches(everport)[seen]
    told = event["time_unix_us"] / 1e6
    print(f"{what}: {event['path']['cause']}; {1000 * (told - start):.0f} ms after the fault began, "
          f"{1000 * (told - done):.0f} ms after it returned; without a path for {event['path']['ms']:.2f} ms")
    drops = everport.port("vm")["drops_by_cause"]
    mend()
    wait_until(lambda: path(everport) == 0, 30, f"{what}: back on the VF")
    expect_traffic(everport, f"{what}: the guest's traffic passes the VF again")
    back = switches(everport)[-1]["path"]
    print(f"{what}: back: {back['cause']}; without a path for {back['ms']:.2f} ms")
    assert everport.port("vm")["drops_by_cause"]["no_path"] == drops["no_path"], "nothing is dropped on the way back"


def test_cable(world):
    _, _, everport = world
    fail_and_recover(everport, lambda: set_link("nic0", False), lambda: set_link("nic0", True), "link taken away")


def test_pf_down(world):
    pf, _, everport = world
    fail_and_recover(everport, lambda: pf.set_up(False), lambda: pf.set_up(True), "PF set down")


def remake(pf, vf):
    again = pf.make_vfs(2, driver="vfio-pci")
    assert again[0].address == vf.address


def test_vfs_removed(world):
    pf, vf, everport = world
    fail_and_recover(everport, lambda: (pf.path / "sriov_numvfs").write_text("0"), lambda: remake(pf, vf), "sriov_numvfs 0")


def test_pf_unplugged(world):
    pf, vf, everport = world

    def mend():
        plug("nic0")
        remake(Pf(), vf)

    fail_and_recover(everport, lambda: unplug("nic0"), mend, "PF unplugged")


def test_the_daemon_killed_on_the_vf(world):
    _, _, everport = world
    expect_traffic(everport, "the guest's traffic passes the VF")
    everport.kill_daemon()
    everport.start_daemon()
    expect_traffic(everport, "the guest's traffic passes again")
    wait_until(lambda: path(everport) == 0, 20, "on the VF again")
    print(everport.ctl_text("events", "--no-follow").stdout)
