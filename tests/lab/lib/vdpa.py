"""Devices of the vDPA bus, /dev/vhost-vdpa-N, with the kernel's VDUSE behind them.

    with VduseDevice("vduse0") as device:                  # testpmd's vhost is the device: frames go somewhere
        ... device.node ("/dev/vhost-vdpa-0"), device.testpmd ...

lab.lib.vduse has one that counts every frame.
"""

import fcntl
import json
import os
import pathlib
import subprocess

from e2e.lib.process import wait_until

from .testpmd import Testpmd

_VDUSE_DESTROY_DEV = 0x41008103  # _IOW(0x81, 3, char[256]), linux/vduse.h


def vdpa(*words):
    """The vdpa tool; parsed JSON if it says any."""
    done = subprocess.run(["vdpa", "-j", *words], capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"vdpa {' '.join(words)}: {done.stderr.strip()}")
    return json.loads(done.stdout) if done.stdout.strip() else None


def add(name):
    """Puts a VDUSE device on the bus; its node, once the driver has bound: it is vhost_vdpa unless one says otherwise."""
    vdpa("dev", "add", "name", name, "mgmtdev", "vduse")
    folder = pathlib.Path(f"/sys/bus/vdpa/devices/{name}")
    found = wait_until(lambda: next(folder.glob("vhost-vdpa-*"), None), 10, f"{name} is bound to vhost_vdpa")
    node = f"/dev/{found.name}"
    wait_until(pathlib.Path(node).exists, 10, node)
    return node


def remove(name):
    """Takes it off the bus, if it is there; its owner cannot be gone before."""
    if os.path.exists(f"/sys/bus/vdpa/devices/{name}"):
        vdpa("dev", "del", name)


def destroy(name):
    """What is left of a VDUSE device whose process had no time to do it."""
    if os.path.exists(f"/dev/vduse/{name}"):
        with open("/dev/vduse/control", "wb") as control:
            fcntl.ioctl(control, _VDUSE_DESTROY_DEV, name.encode().ljust(256, b"\0"))


class VduseDevice:
    """Its testpmd forwards (io, or what forward says) between the device and the vdevs or PCI addresses given besides.

    With none besides, frames go back to the driver that sent them.
    """

    def __init__(self, name="vduse0", *, queues=1, cpus="2-3", forward="io", **testpmd_options):
        self.name = name
        vdevs = [f"net_vhost0,iface=/dev/vduse/{name},queues={queues}", *testpmd_options.pop("vdevs", ())]
        options = [f"--forward-mode={forward}", *(["--port-topology=loop"] if len(vdevs) == 1 else []),
                   f"--rxq={queues}", f"--txq={queues}", *testpmd_options.pop("options", ())]
        self.testpmd = Testpmd(f"testpmd-{name}", vdevs=vdevs, cpus=cpus, options=options, **testpmd_options)
        try:
            wait_until(pathlib.Path(f"/dev/vduse/{name}").exists, 20, f"/dev/vduse/{name}")
            self.node = add(name)
            self.testpmd.command("start")
        except BaseException:
            self.close()
            raise

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        remove(self.name)
        self.testpmd.close()
