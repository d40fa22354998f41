"""VDUSE devices of our own, and a guest of everport's own code on them.

    with CountingDevice("echo0", pairs=2) as device:       # tools/vduse_device.cc: exact to the frame
        counts = drive("echo", device, cycles=100)
    with BareDevice("disk0", device_id=BLOCK) as device:   # of any class, with any features; moves no frames
        ... device.node ...
"""

import fcntl
import json
import os
import pathlib
import select
import struct
import subprocess
import threading

from . import vdpa
from .everport import BIN
from .program import Program


class CountingDevice:
    """mode: echo, stream or tap:INTERFACE. msg_timeout: how long the kernel waits for its process, in seconds."""

    def __init__(self, name, *, pairs=1, mode="echo", msg_timeout=3):
        self.name, self.pairs = name, pairs
        self._program = Program("vduse_device", name, pairs, mode, log=name)
        try:
            if (ready := self._program.read_line()) != "ready":
                raise RuntimeError(f"vduse_device {name}: {ready!r}")
            pathlib.Path(f"/sys/class/vduse/{name}/msg_timeout").write_text(str(msg_timeout))
            self.node = vdpa.add(name)
        except BaseException:
            self.close()
            raise

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    @property
    def pid(self):
        return self._program.pid

    def wait(self, timeout=10):
        """Until its process has ended."""
        return self._program.wait(timeout)

    def stats(self):
        return self._program.ask("stats")

    def remove(self):
        vdpa.remove(self.name)

    def close(self):
        self.remove()
        self._program.close()
        vdpa.destroy(self.name)


def drive(mode, device, argument, features=0, timeout=150):
    """tools/vdpa_driver.cc on it; its counts."""
    command = [BIN / "vdpa_driver", mode, device.node, str(device.pairs), hex(features), str(argument)]
    driver = subprocess.run(command, stdout=subprocess.PIPE, text=True, timeout=timeout)
    if driver.returncode != 0:
        raise RuntimeError(f"vdpa_driver {mode}: status {driver.returncode}; its words are above")
    return json.loads(driver.stdout)


NET, BLOCK = 1, 2
VERSION_1, ACCESS_PLATFORM = 1 << 32, 1 << 33  # the kernel wants both

# linux/vduse.h
_SET_API_VERSION = 0x40088101
_CREATE_DEV = 0x41508102  # struct vduse_dev_config
_VQ_SETUP = 0x40208114    # struct vduse_vq_config
_MESSAGE = 152            # struct vduse_dev_request, struct vduse_dev_response


class BareDevice:
    """It answers the kernel's questions."""

    def __init__(self, name, device_id=NET, features=VERSION_1 | ACCESS_PLATFORM, queues=2):
        self.name = name
        config = bytes(64)
        head = struct.pack("=256sIIQII13II", name.encode(), 0, device_id, features, queues, 4096, *[0] * 13, len(config))
        with open("/dev/vduse/control", "wb") as control:
            fcntl.ioctl(control, _SET_API_VERSION, struct.pack("=Q", 0))
            fcntl.ioctl(control, _CREATE_DEV, head + config)
        self._fd = os.open(f"/dev/vduse/{name}", os.O_RDWR)
        self._end, self._ended = os.pipe()
        self._thread = threading.Thread(target=self._answer, daemon=True)
        self._thread.start()
        try:
            for queue in range(queues):
                fcntl.ioctl(self._fd, _VQ_SETUP, struct.pack("=IH13H", queue, 256, *[0] * 13))
            self.node = vdpa.add(name)
        except BaseException:
            self.close()
            raise

    def _answer(self):
        """Yes to everything; a ring's state is that it has not moved."""
        while self._end not in select.select([self._fd, self._end], [], [])[0]:
            request = os.read(self._fd, _MESSAGE)
            (number,) = struct.unpack_from("=I", request, 4)
            os.write(self._fd, struct.pack("=II16s128s", number, 0, b"", request[24:28]))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        vdpa.remove(self.name)
        os.close(self._ended)
        self._thread.join()
        os.close(self._end)
        os.close(self._fd)
        vdpa.destroy(self.name)
