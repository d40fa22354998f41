"""What the host's monitor can do to the VM's hardware: cable, unplug, plug; and the wire between the two NICs."""

import subprocess
import time

import pytest

from e2e.lib.process import wait_until
from lab.lib import machine
from lab.lib.monitor import MonitorError, link_down, monitor, plug, unplug
from lab.lib.pci import by_mac
from lab.lib.sriov import Pf
from lab.lib.testpmd import Testpmd


def carrier(interface):
    return open(f"/sys/class/net/{interface}/carrier").read().strip() == "1"


def test_refusals_are_errors():
    with pytest.raises(MonitorError, match="nosuch"):
        monitor("set_link nosuch off")
    with pytest.raises(MonitorError, match="nosuch"):
        monitor("device_del nosuch")
    done = subprocess.run(["lab-monitor", "nonsense"], capture_output=True, text=True)
    assert done.returncode == 1 and "nonsense" in done.stderr


def test_the_wire_joins_both_nics():
    names = [by_mac(machine.mac_of(nic)).interface for nic in ("nic0", "nic1")]
    subprocess.run(["ip", "netns", "add", "far"], check=True)
    try:
        for name, address, where in ((names[0], "10.9.0.1/24", []), (names[1], "10.9.0.2/24", ["-n", "far"])):
            if where:
                subprocess.run(["ip", "link", "set", name, "netns", "far"], check=True)
            subprocess.run(["ip", *where, "address", "add", address, "dev", name], check=True)
            subprocess.run(["ip", *where, "link", "set", name, "up"], check=True)
        wait_until(lambda: carrier(names[0]), 10, "nic0 has a carrier")
        subprocess.run(["ping", "-q", "-c", "3", "-i", "0.2", "-w", "10", "10.9.0.2"], check=True)
        with link_down("nic0"):
            wait_until(lambda: not carrier(names[0]), 10, "nic0 sees its cable go")
        wait_until(lambda: carrier(names[0]), 10, "nic0 sees its cable again")
        subprocess.run(["ip", "address", "flush", "dev", names[0]], check=True)
    finally:
        subprocess.run(["ip", "netns", "delete", "far"], check=True)
    wait_until(lambda: by_mac(machine.mac_of("nic1")), 10, "nic1 is back from its namespace")


def test_a_pf_with_vfs_is_unplugged_and_comes_back():
    pf = Pf()
    vf, = pf.make_vfs(1, driver="vfio-pci")
    start = time.monotonic()
    unplug("nic0")
    print(f"unplugged in {time.monotonic() - start:.2f} s")
    wait_until(lambda: not vf.exists() and not pf.exists(), 10, "PF and VF are gone")
    plug("nic0")
    again = Pf()
    assert again.vf_count == 0
    again.make_vfs(1)
    again.remove_vfs()


def test_a_pf_is_unplugged_under_a_busy_vf():
    """vfio asks the user of the VF to let go; testpmd does when told to handle hot-unplug."""
    with Pf() as pf:
        vf, = pf.make_vfs(1, driver="vfio-pci")
        with Testpmd("busy", pci=[vf.address], options=["--hot-plug"]) as testpmd:
            testpmd.command("start")
            start = time.monotonic()
            unplug("nic0")
            print(f"unplugged in {time.monotonic() - start:.2f} s")
            assert not vf.exists()
    plug("nic0")
    assert Pf().vf_count == 0
