# lab: timeout=300
"""Devices that will not do for a port: what is said of them when the port is added, by --check and by doctor names the
object, the cause and the mend, and other ports are left alone. VFs: see vf_relay as well."""

import contextlib
import os
import pathlib
import subprocess

import pytest

from e2e.lib.everport import Everport, port_toml
from e2e.lib.process import wait_until
from lab.lib.everport import BIN
from lab.lib.flow import FlowGuest
from lab.lib.sriov import Pf
from lab.lib.vduse import BLOCK, BareDevice, CountingDevice

MAC, PEER_MAC = "52:54:00:00:ee:02", "52:54:00:00:ee:01"


class World:
    """A daemon with a port whose guest has traffic all the time."""

    def __init__(self, stack, work):
        self.everport = Everport(BIN, work)
        self.everport.write_config(self.good())
        stack.callback(self.everport.stop)
        self.flow = stack.enter_context(FlowGuest(work / "good.sock", MAC, PEER_MAC, ["tap"], rate=1000))
        self.everport.start()
        self.flow.wait_connected()
        wait_until(pathlib.Path("/sys/class/net/lab-good").exists, 10, "the tap is there")
        self.flow.attach("tap", "lab-good")
        self.flow.wait_more("tap", "in")
        self.flow.phase()

    def good(self):
        return port_toml("good", self.everport.work / "good.sock", [{"kind": "tap", "device": "lab-good"}], mac=MAC)

    def add(self, name, uplink, *options):
        """everportctl port add; what it says on either stream."""
        done = self.everport.ctl_text("port", "add", name, "--socket", f"{self.everport.work}/{name}.sock", "--uplink", uplink,
                                      *options, check=False)
        return done.stdout + done.stderr

    def check(self, uplink, prefix=(), **keys):
        """everportd --check of a file with a port that has this uplink; (exit status, what it says)."""
        file = self.everport.work / "check.toml"
        text = self.everport.config.read_text()
        file.write_text(text + "\n" + port_toml("bad", self.everport.work / "bad.sock", [uplink], **keys))
        done = subprocess.run([*prefix, BIN / "everportd", "--config", file, "--check"], capture_output=True, text=True, timeout=30)
        return done.returncode, done.stdout + done.stderr

    def doctor(self):
        return self.everport.ctl_text("doctor", check=False).stdout

    def events(self):
        return self.everport.ctl_text("events", "--no-follow").stdout


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    with contextlib.ExitStack() as stack:
        yield World(stack, tmp_path_factory.mktemp("bad"))


@pytest.fixture(autouse=True)
def others_untouched(world):
    yield
    for port in world.everport.ctl("ports"):
        if port["name"] != "good":
            world.everport.ctl("port", "remove", port["name"])
    books = world.flow.phase()
    assert books["out"]["received"] > 100
    assert books["out"]["missing"] == books["out"]["doubled"] == books["out"]["overtaken"] == 0, books["out"]
    assert world.everport.port("good")["path"]["index"] == 0


def expect(said, *parts):
    print(said.strip(), flush=True)
    for part in parts:
        assert part in said


def test_a_node_that_does_not_exist(world):
    said = world.add("bad", "vhost-vdpa:/dev/vhost-vdpa-99")
    expect(said, "/dev/vhost-vdpa-99 does not exist", "there is no vhost-vdpa device at all")
    status, said = world.check({"kind": "vhost-vdpa", "device": "/dev/vhost-vdpa-99"})
    assert status == 1
    expect(said, "port bad: uplink 0: /dev/vhost-vdpa-99 is missing; run: ")
    expect(world.doctor(), "/dev/vhost-vdpa-99 is missing")


def test_a_node_that_is_none(world):
    expect(world.add("bad", "vhost-vdpa:/dev/null"), "/dev/null is a device of class mem (null), not a vhost-vdpa device",
           "name a /dev/vhost-vdpa-N")


def test_a_node_that_is_busy(world):
    with CountingDevice("busy1") as device:
        holder = subprocess.Popen([BIN / "vdpa_driver", "watch", device.node], stdout=subprocess.PIPE, text=True)
        try:
            assert holder.stdout.readline() == "open\n"
            expect(world.add("bad", f"vhost-vdpa:{device.node}"),
                   f"{device.node} is in use by process {holder.pid} (vdpa_driver); stop it, or name another device")
        finally:
            holder.kill()
            holder.wait()
        wait_until(lambda: world.everport.port("bad")["path"]["index"] == 0, 20, "the port takes it when it is free")
        expect(world.add("second", f"vhost-vdpa:{device.node}"), f'device "{device.node}" is already used by port bad')
        world.everport.ctl("port", "remove", "bad")


def test_another_class_of_device(world):
    with BareDevice("disk1", device_id=BLOCK) as device:
        expect(world.add("bad", f"vhost-vdpa:{device.node}"),
               f"{device.node} is a virtio device of type 2 (block), not a network device; `vdpa dev show` lists")
        world.everport.ctl("port", "remove", "bad")


def test_features_short_of_the_contract(world):
    with BareDevice("lame1") as device:
        world.add("bad", f"vhost-vdpa:{device.node}")
        said = [line for line in world.events().splitlines() if " bad " in line and "lacks" in line]
        expect("\n".join(said), f"vhost-vdpa {device.node}", "the device lacks ", "VIRTIO_NET_F_MRG_RXBUF", "of the port's contract")
        # A guest that negotiates all of it is not served by it, and is told so.
        with FlowGuest(world.everport.work / "bad.sock", MAC, PEER_MAC, ["none"]) as guest:
            guest.wait_connected()
            wait_until(lambda: "cannot serve this guest" in world.everport.port("bad")["uplinks"][0]["error"], 20, "it is told")
            expect(world.everport.port("bad")["uplinks"][0]["error"], device.node, "the device lacks ", "VIRTIO_NET_F_MRG_RXBUF")
        world.everport.ctl("port", "remove", "bad")


def test_fewer_queue_pairs_than_the_port(world):
    with CountingDevice("narrow1", pairs=1) as device:
        world.add("bad", f"vhost-vdpa:{device.node}", "--queue-pairs", "2")
        said = [line for line in world.events().splitlines() if " bad " in line and "lacks" in line]
        expect("\n".join(said), f"vhost-vdpa {device.node}", "the device lacks VIRTIO_NET_F_MQ of the port's contract")
        world.everport.ctl("port", "remove", "bad")


@contextlib.contextmanager
def owned_by_nobody(node):
    subprocess.run(["chown", "nobody", node], check=True)
    mode = os.stat(node).st_mode & 0o777
    os.chmod(node, 0o600)
    try:
        yield
    finally:
        os.chmod(node, mode)
        subprocess.run(["chown", "root", node], check=True)


UNPRIVILEGED = ("setpriv", "--bounding-set", "-dac_override,-dac_read_search")


def test_no_permission_on_the_node(world, tmp_path):
    with CountingDevice("locked1") as device, owned_by_nobody(device.node):
        status, said = world.check({"kind": "vhost-vdpa", "device": device.node}, prefix=UNPRIVILEGED)
        assert status == 1
        expect(said, f"port bad: uplink 0: {device.node} may not be opened (Permission denied); run: chown :everport")
        second = Everport(BIN, tmp_path, prefix=UNPRIVILEGED)
        second.write_config(port_toml("bad", tmp_path / "bad.sock", [{"kind": "vhost-vdpa", "device": device.node}]))
        try:
            second.start()
            error = wait_until(lambda: second.port("bad")["uplinks"][0]["error"], 20, "its uplink says why it does not work")
            expect(error, f"no permission to open {device.node}; let the daemon's user read and write it")
        finally:
            second.stop()


def test_no_permission_on_vfio(world):
    with Pf() as pf:
        vf, _ = pf.make_vfs(2, driver="vfio-pci")
        node = f"/dev/vfio/{vf.iommu_group}"
        with owned_by_nobody(node):
            status, said = world.check({"kind": "vf", "device": vf.address}, prefix=UNPRIVILEGED, mac=vf.mac)
            assert status == 1
            expect(said, f"everportd may not open {node} (Permission denied); run: chown :everport {node}")


def test_vfs_that_will_not_do(world):
    with Pf() as pf:
        vf, other = pf.make_vfs(2)
        vf.bind("igbvf")
        cases = [("0000:7f:1f.7", "PCI device 0000:7f:1f.7 does not exist", "`lspci -D` lists them"),
                 (pf.address, f"PCI device {pf.address} is not a VF", "sriov_numvfs"),
                 (vf.address, f"PCI device {vf.address} is bound to igbvf", "bind = true")]
        for address, *parts in cases:
            status, said = world.check({"kind": "vf", "device": address})
            assert status == 1
            expect(said, "port bad: uplink 0: ", *parts)
            expect(world.add("bad", f"vf:{address}"), *parts)
            expect(world.doctor(), *parts)
            world.everport.ctl("port", "remove", "bad")
        other.bind("vfio-pci")
        world.add("bad", f"vf:{other.address}", "--mac", other.mac)
        wait_until(lambda: world.everport.port("bad")["path"]["index"] == 0, 20, "a good one works")
        expect(world.add("second", f"vf:{other.address}"), f'device "{other.address}" is already used by port bad')
