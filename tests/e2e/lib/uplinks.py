"""Uplinks of each kind that ends in a host's bridge, for ports whose guests are reached through it."""

import json

from .process import Process, wait_until
from .stage import build_dir

KINDS = ("tap", "af_packet", "af_xdp", "memif")


class Uplink:
    """One uplink of a port on a host. start() after the daemon, stop() before it."""

    def __init__(self, host, kind, number):
        self.host, self.kind, self.number = host, kind, number
        self.name = f"up{number}"
        self._cable = None
        self._memif = f"socket={host.work}/{self.name}.memif,socket-abstract=no"
        if kind in ("af_packet", "af_xdp"):
            host.net.ip("link", "add", self.name, "type", "veth", "peer", "name", f"{self.name}b")
            host.net.ip("link", "set", self.name, "up")
            host.net.enslave(f"{self.name}b")
            # As a wire does it: frames of the length they have on it, their checksums finished.
            host.net.run("ethtool", "-K", f"{self.name}b", "tx", "off", "tso", "off", "gso", "off")

    def config(self):
        """What the configuration file says of it."""
        if self.kind == "tap":
            return {"kind": "tap", "device": self.name, "bridge": self.host.net.bridge}
        if self.kind == "memif":
            return {"kind": "vdev", "device": f"net_memif{self.number},role=server,{self._memif}"}
        return {"kind": self.kind, "device": self.name}

    def start(self):
        """The far end of a memif is another process's."""
        if self.kind != "memif":
            return
        tap, ready = f"{self.name}t", []
        self._cable = Process(
            [*self.host.net.prefix(), build_dir() / "bin/everport-cable", "--no-huge", "-m", 64, "--no-pci", "--no-shconf",
             "--log-level=critical", f"--vdev=net_memif0,role=client,{self._memif}", f"--vdev=net_tap0,iface={tap}"],
            name=f"cable ({self.host.net.name} {self.name})", log_path=self.host.work / f"{self.name}-cable.log",
            on_line=lambda line: ready.append(line) if line.strip() == "ready" else None)
        wait_until(lambda: ready or not self._cable.alive(), 20, "the memif's cable is ready")
        if not ready:
            raise RuntimeError(f"{self._cable.name} ended{self._cable.log_tail()}")
        self.host.net.enslave(tap)

    def stop(self):
        if self._cable:
            self._cable.stop()

    def describe(self):
        return json.dumps(self.config())
