"""The VM's end of its virtio-serial ports; lines of JSON go both ways."""

import json
import os
import pathlib
import time


def _find(name):
    for entry in pathlib.Path("/sys/class/virtio-ports").glob("*/name"):
        if entry.read_text().strip() == name:
            return f"/dev/{entry.parent.name}"
    return None


def open_port(name, timeout=0):
    """A binary file, unbuffered; an error if another process has the port open. At boot a port may take until it is there."""
    deadline = time.monotonic() + timeout
    while not (path := _find(name)):
        if time.monotonic() > deadline:
            raise FileNotFoundError(f"no virtio-serial port {name}: this runs in the lab VM only")
        time.sleep(0.01)
    return os.fdopen(os.open(path, os.O_RDWR | os.O_CLOEXEC), "r+b", buffering=0)


class JsonLines:
    def __init__(self, stream):
        self._stream = stream
        self._rest = b""

    def send(self, message):
        data = json.dumps(message).encode() + b"\n"
        while data:
            data = data[self._stream.write(data):]

    def receive(self):
        """The next message; None at the end."""
        while b"\n" not in self._rest:
            data = self._stream.read(65536)
            if not data:
                return None
            self._rest += data
        line, self._rest = self._rest.split(b"\n", 1)
        return json.loads(line)
