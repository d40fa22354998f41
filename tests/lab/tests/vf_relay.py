# lab: timeout=300
"""A VF as a port's uplink: opened and given the port's MAC, its troubles seen, let go when the kernel wants it back; and
what is said when it cannot be had."""

import contextlib
import pathlib
import subprocess
import tempfile
import time

from e2e.lib.everport import Everport, port_toml
from e2e.lib.process import wait_until
from e2e.lib.timed import bar
from lab.lib.everport import BIN
from lab.lib.monitor import set_link
from lab.lib.sriov import Pf
from lab.lib.testpmd import Testpmd
from lab.lib.uplink_probe import UplinkProbe

RELEASE_MS = 1000  # from the request to the device closed; 350 when the host is idle: this is TCG


@contextlib.contextmanager
def everport(*ports, prefix=()):
    """A keeper and a daemon; ports: (name, uplinks, mac)."""
    with tempfile.TemporaryDirectory(prefix="vf") as work:
        instance = Everport(BIN, work, prefix=prefix, pollers=[1])
        instance.write_config(*(port_toml(name, f"{work}/{name}.sock", uplinks, **({"mac": mac} if mac else {}))
                                for name, uplinks, mac in ports))
        try:
            yield instance.start()
        finally:
            instance.stop()


def uplink(instance, name="vm1", index=0):
    return instance.port(name)["uplinks"][index]


def wait_error(instance, text, name="vm1", index=0):
    wait_until(lambda: text in uplink(instance, name, index)["error"], 20,
               f"port {name} uplink {index} says {text!r}; it says {uplink(instance, name, index)}")


def wait_open(instance, name="vm1", index=0):
    wait_until(lambda: uplink(instance, name, index)["state"] != "failed" and not uplink(instance, name, index)["error"], 20,
               f"port {name} uplink {index} works; it says {uplink(instance, name, index)}")


def vf_uplink(vf, **keys):
    return {"kind": "vf", "device": getattr(vf, "address", vf), **keys}


def milliseconds():
    return time.monotonic() * 1000


TAP = {"kind": "tap", "device": "ep-spare"}


def test_link_pf_and_removal_are_seen():
    """And the device is let go of promptly: the kernel waits for that."""
    with Pf() as pf:
        vf, _ = pf.make_vfs(2)
        with UplinkProbe("vf", vf.address, vf.mac, "bind") as probe:
            print(probe.wait("opened")[1])
            assert vf.driver == "vfio-pci"
            probe.wait("trouble well")

            set_link("nic0", False)
            probe.wait("trouble link down")
            set_link("nic0", True)
            probe.wait("trouble well")

            # A PF that is set down resets its VFs: this one is opened anew when it is back.
            start = milliseconds()
            pf.set_up(False)
            told, text = probe.wait("trouble device needs a reset")
            print(f"PF down: {text!r} after {told - start:.0f} ms")
            assert f"its PF {pf.interface} is down; run: ip link set {pf.interface} up" in probe.wait("failed")[1]
            pf.set_up(True)
            probe.wait("opened")
            probe.wait("trouble well")

            start = milliseconds()
            (pf.path / "sriov_numvfs").write_text("0")
            returned = milliseconds()
            told, _ = probe.wait("trouble device removed")
            closed, text = probe.wait("closed")
            print(f"VF removed: told after {told - start:.0f} ms, {text} ms, the write returned after {returned - start:.0f} ms")
            assert closed - told < bar(RELEASE_MS)
            assert returned > closed  # the kernel has waited for it, and got it
            probe.wait("failed PCI device")

            pf.make_vfs(2)
            probe.wait("opened")
            probe.wait("trouble well")


def test_daemon_opens_it_and_gives_it_back():
    with Pf() as pf:
        vf, other = pf.make_vfs(2)
        with everport(("vm1", [vf_uplink(vf, bind=True), TAP], vf.mac)) as instance:
            wait_open(instance)
            assert vf.driver == "vfio-pci"
            assert instance.port("vm1")["path"]["kind"] == "vf"
            (pf.path / "sriov_numvfs").write_text("0")  # returns: it has been let go of
            wait_error(instance, vf.address)
            wait_until(lambda: instance.port("vm1")["path"]["kind"] == "tap", 10, "the tap takes over")


def test_what_is_in_the_way_is_said():
    with Pf() as pf:
        vf, other = pf.make_vfs(2)
        spare = [vf_uplink("0000:7f:1f.7"), TAP]
        with everport(("spare", spare, None), ("vm1", [vf_uplink(vf)], vf.mac)) as instance:
            wait_error(instance, "PCI device 0000:7f:1f.7 does not exist", "spare")
            wait_error(instance, f"PCI device {vf.address} is bound to no driver, not to vfio-pci; write bind = true")
            vf.bind("igbvf")
            wait_error(instance, f"PCI device {vf.address} is bound to igbvf")
            doctor = instance.ctl_text("doctor", check=False).stdout
            assert f"PCI device {vf.address} is bound to igbvf" in doctor
            assert "PCI device 0000:7f:1f.7 does not exist" in doctor

            # Held by another program.
            vf.bind("vfio-pci")
            with Testpmd("holder", pci=[other.bind("vfio-pci").address]):
                refused = add(instance, "vm2", other, other.mac)
                assert "in use by another program" in refused, refused

            # Ours already.
            wait_open(instance)
            refused = add(instance, "vm3", vf, vf.mac)
            assert "is already used by port vm1" in refused, refused

            # The whole device.
            refused = add(instance, "vm4", pf, None)
            assert f"PCI device {pf.address} is not a VF" in refused, refused

            instance.ctl("port", "remove", "vm2")

            # Not the MAC that the PF's owner has given it; once it is, it works.
            mac = "52:54:00:1a:bf:77"
            refused = add(instance, "vm5", other, mac)
            mend = f"ip link set {pf.interface} vf 1 mac {mac}"
            assert f"the port's MAC {mac}" in refused and mend in refused, refused
            subprocess.run(mend, shell=True, check=True)
            wait_open(instance, "vm5")

            # All the while the others were left alone.
            assert instance.port("spare")["path"]["kind"] == "tap"
            assert instance.port("vm1")["path"]["kind"] == "vf"


def add(instance, name, vf, mac):
    """everportctl port add; what it says on either stream."""
    done = instance.ctl_text("port", "add", name, "--socket", f"{instance.work}/{name}.sock", "--uplink",
                             f"vf:{vf.address}", *(["--mac", mac] if mac else []), check=False)
    return done.stdout + done.stderr


def test_no_permission_on_vfio_is_said():
    with Pf() as pf:
        vf, _ = pf.make_vfs(2, driver="vfio-pci")
        node = pathlib.Path(f"/dev/vfio/{vf.iommu_group}")
        subprocess.run(["chown", "nobody", node], check=True)
        without = ("setpriv", "--bounding-set", "-dac_override,-dac_read_search")
        with everport(("vm1", [vf_uplink(vf)], vf.mac), prefix=without) as instance:
            wait_error(instance, f"everportd may not open {node} (Permission denied); run: chown :everport {node}")
            subprocess.run(["chown", "root", node], check=True)
            wait_open(instance)


def test_virtio_user_needs_vhost_net_and_makes_a_tap():
    subprocess.run("ip link add br-vu type bridge && ip link set br-vu up", shell=True, check=True)
    try:
        with everport(("vm1", [{"kind": "virtio-user", "device": "ep-vu", "bridge": "br-vu"}], None)) as instance:
            wait_open(instance)
            assert pathlib.Path("/sys/class/net/ep-vu/master").resolve().name == "br-vu"
            instance.reload()
            wait_until(lambda: not pathlib.Path("/sys/class/net/ep-vu").exists(), 10, "the tap goes with its port")
    finally:
        subprocess.run(["ip", "link", "del", "br-vu"], check=True)
