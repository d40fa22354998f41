"""SR-IOV: VFs of the lab's igb.

    with Pf() as pf:                    # no VFs afterwards
        vf, peer = pf.make_vfs(2)
        vf.bind("vfio-pci")             # for DPDK
        peer.bind("igbvf")              # or the kernel's own driver: peer.wait_interface()

The emulated igb gives a VF its own broadcasts back. A bridge with a VF in it hears so by the VF whoever has announced himself
elsewhere, and sends him nothing from then on, until he speaks again. The other end of the wire, nic1, does no such thing.
"""

import os
import subprocess

from e2e.lib.process import wait_until

from . import machine
from .pci import PciDevice, by_mac


class Vf(PciDevice):
    def __init__(self, address, index, mac):
        super().__init__(address)
        self.index, self.mac = index, mac


class Pf(PciDevice):
    """The physical function; waits until it is there, as after plug()."""

    def __init__(self, nic="nic0"):
        found = wait_until(lambda: by_mac(machine.mac_of(nic)), 10, f"{nic} has a network interface")
        super().__init__(found.address)
        self.nic = nic

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.exists():
            self.remove_vfs()

    @property
    def vf_count(self):
        return int((self.path / "sriov_numvfs").read_text())

    def make_vfs(self, count, driver=None):
        """The VFs, each with a MAC of its own and bound to driver; the PF is up, and so are they.

        VFs first, then PF up: else they stay in reset.
        """
        (self.path / "sriov_drivers_autoprobe").write_text("0")
        (self.path / "sriov_numvfs").write_text(str(count))
        vfs = []
        for index in range(count):
            vf = Vf(os.path.basename(os.readlink(self.path / f"virtfn{index}")), index, f"52:54:00:1a:bf:{index:02x}")
            self.ip("vf", str(index), "mac", vf.mac)
            vfs.append(vf.bind(driver))
        self.set_up(True)
        return vfs

    def remove_vfs(self):
        """Returns when they are gone, which waits for whoever holds one by vfio to let go of it."""
        (self.path / "sriov_numvfs").write_text("0")
        (self.path / "sriov_drivers_autoprobe").write_text("1")
        self.set_up(False)

    def set_up(self, up):
        self.ip("up" if up else "down")

    def ip(self, *words):
        """ip link set INTERFACE words."""
        subprocess.run(["ip", "link", "set", self.wait_interface(), *words], check=True)
