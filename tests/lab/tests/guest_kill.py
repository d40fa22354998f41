# lab: timeout=400
"""A real guest with one NIC on a VF and one on a vDPA device: the daemon is killed under it, its traffic comes back, on the
software path first where that is quicker, and neither link changes."""

import contextlib
import subprocess

import pytest

from e2e.lib.everport import Everport, port_toml
from e2e.lib.guest import Guest
from e2e.lib.measure import Pinger
from e2e.lib.process import wait_until
from lab.lib import machine
from lab.lib.everport import BIN, BUILD
from lab.lib.guest import guest_files
from lab.lib.pci import by_mac
from lab.lib.sriov import Pf
from lab.lib.vduse import CountingDevice

KILLS = 2
MODE = {"vf": "relay", "vdpa": "offload"}  # by port, on its hardware
VDPA_MAC = "52:54:00:00:00:03"
NICS = {"eth0": ("vf", "10.77.0.2"), "eth1": ("vdpa", "10.78.0.2")}  # of the guest: port, address


def sh(*commands):
    for command in commands:
        subprocess.run(command, shell=True, check=True)


class World:
    def __init__(self, stack, work):
        """Two bridges: br-vf with the other end of the VF's wire and the first port's tap, br-vdpa with the vDPA device's
        network side and the second port's tap. The guest boots meanwhile."""
        self.everport = Everport(BIN, work)
        sockets = {port: work / f"{port}.sock" for port, _ in NICS.values()}
        pf = stack.enter_context(Pf())
        (vf,) = pf.make_vfs(1)
        files = guest_files(work)
        nics = [word for index, (port, mac) in enumerate({"vf": vf.mac, "vdpa": VDPA_MAC}.items())
                for word in ("-chardev", f"socket,id=nic{index},path={sockets[port]},server=on",
                             "-netdev", f"vhost-user,id=nic{index},chardev=nic{index}",
                             "-device", f"virtio-net-pci,netdev=nic{index},mac={mac}")]
        self.guest = Guest(files, work, None, address="10.77.0.2/24", network=nics)
        stack.callback(self.guest.stop)
        self.device = stack.enter_context(CountingDevice("kill0", mode="tap:lab-vdpa"))
        pf.wait_carrier()
        wire = by_mac(machine.mac_of("nic1")).wait_interface()  # no VF: lib/sriov.py
        # Addresses of their own: a bridge's changes else with its ports, and the guest would answer to what it was.
        sh("ip link add br-vf address 52:54:00:1a:b2:00 type bridge && ip link add br-vdpa address 52:54:00:1a:b2:01 type bridge",
           f"ip link set {wire} up master br-vf", "ip link set lab-vdpa up master br-vdpa",
           "ip address add 10.77.0.1/24 dev br-vf && ip address add 10.78.0.1/24 dev br-vdpa",
           "ip link set br-vf up && ip link set br-vdpa up")
        stack.callback(sh, f"ip link del br-vf && ip link del br-vdpa && ip link set {wire} down")
        self.everport.write_config(
            port_toml("vf", sockets["vf"], [{"kind": "vf", "device": vf.address, "bind": True},
                                            {"kind": "tap", "device": "lab-vm0", "bridge": "br-vf"}],
                      mac=vf.mac, failback_delay_ms=500),
            port_toml("vdpa", sockets["vdpa"], [{"kind": "vhost-vdpa", "device": self.device.node},
                                                {"kind": "tap", "device": "lab-vm1", "bridge": "br-vdpa"}],
                      mac=VDPA_MAC, failback_delay_ms=500, contract="minimal-1"))  # no frames of 64 KB for its tap
        stack.callback(self.everport.stop)
        self.everport.start()
        self.guest.wait_booted(300)
        self.guest.run("ip address add 10.78.0.2/24 dev eth1 && ip link set eth1 up")
        self.pings = {}
        for nic, (_, address) in NICS.items():  # the guest only answers: the network finds it by the announcements
            (work / nic).mkdir()
            self.pings[nic] = Pinger([], BUILD / "guest_tools/everport-flow", address, work / nic)
            stack.callback(self.pings[nic].close)

    def wait_hardware(self):
        for port, _ in NICS.values():
            def served():
                path = self.everport.port(port)["path"]
                return (path["index"], path["mode"]) == (0, MODE[port])

            try:
                wait_until(served, 30, f"port {port} is on its hardware")
            except TimeoutError:
                print(self.everport.port(port)["uplinks"], flush=True)
                raise

    def carrier_changes(self):
        """Of both NICs."""
        return {nic: self.guest.carrier_changes(nic) for nic in NICS}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    with contextlib.ExitStack() as stack:
        yield World(stack, tmp_path_factory.mktemp("kill"))


def test_the_guest_does_not_see_the_daemon_killed(world):
    world.wait_hardware()
    settled = {nic: pings.wait_reply(0, 60) for nic, pings in world.pings.items()}
    changes = world.carrier_changes()
    for kill in range(1, KILLS + 1):
        for nic, pings in world.pings.items():
            pings.wait_reply(settled[nic] + 0.3, 60)
        killed = world.everport.kill_daemon()
        world.everport.start_daemon()
        try:
            ready = {nic: pings.wait_reply(killed + 0.05, 60) for nic, pings in world.pings.items()}
        except TimeoutError:
            print(world.everport.ctl_text("events", "--no-follow").stdout, flush=True)
            raise
        world.wait_hardware()
        for nic, pings in world.pings.items():
            settled[nic] = pings.wait_reply(ready[nic] + 2, 60)  # and on the hardware
            longest = pings.gap(killed, settled[nic])
            print(f"kill {kill}: {nic}: gap {1000 * longest:.0f} ms, of it the daemon's start {world.everport.startup()['total_ms']:.0f} ms; "
                  f"carrier_changes {world.guest.carrier_changes(nic)}", flush=True)
        assert world.carrier_changes() == changes
        print(world.everport.ctl_text("events", "--no-follow").stdout, flush=True)
    for nic in NICS:
        assert world.guest.run(f"cat /sys/class/net/{nic}/carrier").strip() == "1"
