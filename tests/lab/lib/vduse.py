"""A VDUSE device that counts every frame (tools/vduse_device.cc), and a guest of everport's own code on it.

    with CountingDevice("echo0", pairs=2) as device:
        counts = drive("echo", device, cycles=100)
"""

import fcntl
import json
import os
import pathlib
import subprocess

from e2e.lib.process import wait_until

from .everport import BIN
from .vdpa import vdpa

_VDUSE_DESTROY_DEV = 0x41008103  # _IOW(0x81, 3, char[256]), linux/vduse.h


class CountingDevice:
    """mode: echo or stream. msg_timeout: how long the kernel waits for its process, in seconds."""

    def __init__(self, name, *, pairs=1, mode="echo", msg_timeout=3):
        self.name, self.pairs = name, pairs
        log = open(pathlib.Path(os.environ.get("LAB_RESULTS", "/tmp")) / f"{name}.log", "w")
        self.process = subprocess.Popen([BIN / "vduse_device", name, str(pairs), mode], stdin=subprocess.PIPE,
                                        stdout=subprocess.PIPE, stderr=log, text=True)
        try:
            ready = self.process.stdout.readline().strip()
            if ready != "ready":
                raise RuntimeError(f"vduse_device {name}: {ready!r}; see {log.name}")
            pathlib.Path(f"/sys/class/vduse/{name}/msg_timeout").write_text(str(msg_timeout))
            vdpa("dev", "add", "name", name, "mgmtdev", "vduse")
            folder = pathlib.Path(f"/sys/bus/vdpa/devices/{name}")
            node = wait_until(lambda: next(folder.glob("vhost-vdpa-*"), None), 10, f"{name} is bound to vhost_vdpa")
            self.node = f"/dev/{node.name}"
            wait_until(pathlib.Path(self.node).exists, 10, self.node)
        except BaseException:
            self.close()
            raise

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    @property
    def pid(self):
        return self.process.pid

    def stats(self):
        self.process.stdin.write("stats\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def remove(self):
        if os.path.exists(f"/sys/bus/vdpa/devices/{self.name}"):
            vdpa("dev", "del", self.name)

    def close(self):
        self.remove()
        if self.process.poll() is None:
            self.process.stdin.close()
            try:
                self.process.wait(10)
            except subprocess.TimeoutExpired:
                self.process.kill()
        self.process.wait(10)
        if os.path.exists(f"/dev/vduse/{self.name}"):  # its process had no time to
            with open("/dev/vduse/control", "wb") as control:
                fcntl.ioctl(control, _VDUSE_DESTROY_DEV, self.name.encode().ljust(256, b"\0"))


def drive(mode, device, argument, features=0, timeout=150):
    """tools/vdpa_driver.cc on it; its counts."""
    command = [BIN / "vdpa_driver", mode, device.node, str(device.pairs), hex(features), str(argument)]
    driver = subprocess.run(command, stdout=subprocess.PIPE, text=True, timeout=timeout)
    if driver.returncode != 0:
        raise RuntimeError(f"vdpa_driver {mode}: status {driver.returncode}; its words are above")
    return json.loads(driver.stdout)
