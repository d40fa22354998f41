"""The VM as it was at boot, whatever a test has left: a test that fails must not fail the next one."""

import pathlib

from . import machine
from .monitor import is_plugged, plug, set_link
from .pci import by_mac
from .vdpa import vdpa


def restore():
    """Puts everything back; returns a line for each thing that had to be, or could not be."""
    found = []
    for what in (_vdpa_devices, _hugepage_files, _nics, _vfs):
        try:
            found += what()
        except (RuntimeError, OSError, TimeoutError) as error:
            found.append(f"not {what.__name__.strip('_')}: {error}")
    return found


def _vdpa_devices():
    found = [path.name for path in pathlib.Path("/sys/bus/vdpa/devices").iterdir()]
    for name in found:
        vdpa("dev", "del", name)
    return [f"vdpa device {name}" for name in found]


def _hugepage_files():
    found = [path for path in pathlib.Path("/dev/hugepages").rglob("*") if path.is_file()]
    for path in found:
        path.unlink()
    return [f"{len(found)} files on hugetlbfs"] if found else []


def _nics():
    found = []
    for nic in machine.NICS:
        if is_plugged(nic):
            set_link(nic, True)
        else:
            plug(nic)
            found.append(f"{nic} was unplugged")
    return found


def _vfs():
    found = []
    for nic in machine.NICS:
        pf = by_mac(machine.mac_of(nic))
        number = pf and pf.path / "sriov_numvfs"
        if number and number.exists() and number.read_text().strip() != "0":
            found.append(f"VFs of {nic}")
            number.write_text("0")
    return found
