"""Faults on request: QEMU's monitor, from inside the VM. On the command line: lab-monitor 'set_link nic0 off'."""

import contextlib
import fcntl

from . import machine
from .ports import JsonLines, open_port


class MonitorError(RuntimeError):
    pass


def monitor(command, wait=True):
    """Runs a command of QEMU's human monitor on the host and returns what it says, when it is done.

    device_del is done when the device is gone, which the VM's kernel has a say in; with wait=False, when it is asked for.
    MonitorError if QEMU refuses it, or a device does not go within 30 s. Callers on any process wait for each other.
    """
    with open("/run/lab-monitor.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with open_port("lab.monitor") as stream:
            lines = JsonLines(stream)
            lines.send({"command": command, "wait": wait})
            reply = lines.receive()
    if not reply["ok"]:
        raise MonitorError(f"{command}: {reply['output'].strip()}")
    return reply["output"]


def set_link(nic, up):
    """The cable of nic0 or nic1, or of a network behind it (wire0, wire1)."""
    monitor(f"set_link {nic} {'on' if up else 'off'}")


def unplug(nic, wait=True):
    monitor(f"device_del {nic}", wait)


def plug(nic):
    """Puts an unplugged NIC back, as it was at boot; its PCI device appears when the kernel has seen it."""
    monitor(f"device_add {machine.NICS[nic]}")


def is_plugged(nic):
    return f'dev: {machine.NICS[nic].split(",")[0]}, id "{nic}"' in monitor("info qtree")


@contextlib.contextmanager
def link_down(nic):
    set_link(nic, False)
    try:
        yield
    finally:
        set_link(nic, True)
