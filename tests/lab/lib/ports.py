"""The VM's end of its virtio-serial ports; lines of JSON go both ways."""

import json
import os
import pathlib


def open_port(name):
    """A binary file, unbuffered, or an error if another process has the port open."""
    for entry in pathlib.Path("/sys/class/virtio-ports").iterdir():
        if (entry / "name").read_text().strip() == name:
            return os.fdopen(os.open(f"/dev/{entry.name}", os.O_RDWR | os.O_CLOEXEC), "r+b", buffering=0)
    raise FileNotFoundError(f"no virtio-serial port {name}: this runs in the lab VM only")


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
