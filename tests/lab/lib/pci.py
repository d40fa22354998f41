"""PCI devices of the VM: drivers, IOMMU groups, network interfaces."""

import os
import pathlib

from e2e.lib.process import wait_until

DEVICES = pathlib.Path("/sys/bus/pci/devices")


class PciDevice:
    def __init__(self, address):
        self.address = address
        self.path = DEVICES / address

    def __repr__(self):
        return f"{type(self).__name__}({self.address})"

    def exists(self):
        return self.path.exists()

    @property
    def driver(self):
        """Name of the driver that it is bound to, or None."""
        link = self.path / "driver"
        return os.path.basename(os.readlink(link)) if link.is_symlink() else None

    @property
    def iommu_group(self):
        return int(os.path.basename(os.readlink(self.path / "iommu_group")))

    def bind(self, driver):
        """Bound to this driver and no other when it returns; None leaves it without one."""
        (self.path / "driver_override").write_text((driver or "") + "\n")
        if self.driver not in (driver, None):
            (self.path / "driver/unbind").write_text(self.address)
        if driver and self.driver != driver:
            pathlib.Path("/sys/bus/pci/drivers_probe").write_text(self.address)
            if self.driver != driver:
                raise RuntimeError(f"{self.address} does not bind to {driver}; it is bound to {self.driver}")
        return self

    @property
    def interface(self):
        """Name of its network interface, or None. virtio-net's lies one level deeper."""
        found = [*self.path.glob("net/*"), *self.path.glob("virtio*/net/*")]
        return found[0].name if found else None

    def wait_interface(self, timeout=10):
        return wait_until(lambda: self.interface, timeout, f"{self.address} has a network interface")

    def wait_carrier(self, timeout=20):
        carrier = self.path / "net" / self.wait_interface() / "carrier"
        wait_until(lambda: carrier.read_text().strip() == "1", timeout, f"{self.address} has a link")


def by_mac(mac):
    """The PCI device whose network interface has this address, or None while there is none."""
    for interface in pathlib.Path("/sys/class/net").iterdir():
        try:
            if (interface / "address").read_text().strip() != mac or not (interface / "device").exists():
                continue
        except OSError:
            continue  # it has just gone
        for part in reversed((interface / "device").resolve().parts):
            if (DEVICES / part).exists():
                return PciDevice(part)
    return None
