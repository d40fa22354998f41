"""A port whose first uplink is a vDPA device: the kernel's device serves the guest's rings itself, the guest moves to the
software path and back under traffic, and goes on there when the device's process dies or the daemon is killed."""
# lab: timeout=400

import contextlib
import itertools
import os
import signal

import pytest

from e2e.lib.everport import Everport, port_toml
from e2e.lib.process import wait_until
from lab.lib.everport import BIN
from lab.lib.testpmd import Testpmd
from lab.lib.vduse import CountingDevice


_serial = itertools.count()  # a device whose process was killed keeps its name for a while


@pytest.fixture
def world(tmp_path):
    """everport with one port on a VDUSE device that sends everything back, a tap beside it, and a guest that keeps frames going."""
    with contextlib.ExitStack() as stack:
        device = stack.enter_context(CountingDevice(f"echo{next(_serial)}"))
        everport = Everport(BIN, tmp_path)
        socket = tmp_path / "vm.sock"
        everport.write_config(port_toml("vm", socket, [{"kind": "vhost-vdpa", "device": device.node},
                                                       {"kind": "tap", "device": "lab-vm"}], failback_delay_ms=300))
        stack.callback(everport.stop)
        everport.start()
        guest = stack.enter_context(Testpmd("guest", vdevs=[f"net_virtio_user0,path={socket},server=1"],
                                            eal=["--single-file-segments"], options=["--port-topology=loop"]))
        yield device, everport, guest


def path(everport):
    return everport.ctl("ports")[0]["path"]


def expect_echo(guest, why):
    """Frames that are sent now come back."""
    guest.command("stop")
    guest.command("clear port stats all")
    guest.command("start tx_first")
    wait_until(lambda: guest.counters()["RX-packets"] > 500, 20, why)


def test_the_device_serves_the_guest_and_the_software_path_in_turn(world):
    device, everport, guest = world
    expect_echo(guest, "frames come back through the device")
    port = everport.ctl("ports")[0]
    assert port["path"]["mode"] == "offload", port
    assert port["poller"] == -1, "no poller is involved"
    for _ in range(10):
        for index, mode in ((1, "relay"), (0, "offload")):
            everport.ctl_text("path", "vm", str(index))
            assert path(everport)["mode"] == mode
    expect_echo(guest, "frames come back after twenty switches")
    print(everport.ctl_text("events", "--no-follow").stdout)
    print(device.stats())


def test_the_device_process_killed(world):
    device, everport, guest = world
    expect_echo(guest, "frames come back through the device")
    os.kill(device.pid, signal.SIGKILL)
    wait_until(lambda: path(everport)["index"] == 1, 10, "the software path takes over")
    before = everport.ctl("ports")[0]["tx_packets"]
    guest.command("stop")
    guest.command("start tx_first")
    wait_until(lambda: everport.ctl("ports")[0]["tx_packets"] > before, 20, "what the guest sends goes out by the tap")
    print(everport.ctl_text("events", "--no-follow").stdout)


def test_the_daemon_killed_on_the_device(world):
    device, everport, guest = world
    expect_echo(guest, "frames come back through the device")
    everport.kill_daemon()
    everport.start_daemon()
    wait_until(lambda: path(everport)["mode"] == "offload", 20, "the device serves the guest again")
    expect_echo(guest, "frames come back after the daemon's death")
