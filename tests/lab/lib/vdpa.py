"""A real /dev/vhost-vdpa-N: the kernel's VDUSE, with testpmd's vhost as the device behind it.

    with VduseDevice("vduse0") as device:
        ... device.node ("/dev/vhost-vdpa-0"), device.testpmd ...
"""

import json
import os
import pathlib
import subprocess

from e2e.lib.process import wait_until

from .testpmd import Testpmd


def vdpa(*words):
    """The vdpa tool; parsed JSON if it says any."""
    done = subprocess.run(["vdpa", "-j", *words], capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"vdpa {' '.join(words)}: {done.stderr.strip()}")
    return json.loads(done.stdout) if done.stdout.strip() else None


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
            vdpa("dev", "add", "name", name, "mgmtdev", "vduse")
            self.node = f"/dev/{self._wait_bound()}"
            wait_until(pathlib.Path(self.node).exists, 10, self.node)
            self.testpmd.command("start")
        except BaseException:
            self.close()
            raise

    def _wait_bound(self):
        """vhost-vdpa-N, once the driver has bound; it is vhost_vdpa unless one says otherwise."""
        folder = pathlib.Path(f"/sys/bus/vdpa/devices/{self.name}")
        return wait_until(lambda: next((p.name for p in folder.glob("vhost-vdpa-*")), None), 10,
                          f"{self.name} is bound to vhost_vdpa")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        """The device first: VDUSE's owner cannot be gone while the bus has it."""
        if os.path.exists(f"/sys/bus/vdpa/devices/{self.name}"):
            vdpa("dev", "del", self.name)
        self.testpmd.close()
