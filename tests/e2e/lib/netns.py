"""A network of our own: a namespace with a bridge, so that nothing of the host's is touched."""

import os
import re
import subprocess

PREFIX = "everport-"


def _run(*args, check=True):
    done = subprocess.run(args, capture_output=True, text=True)
    if check and done.returncode != 0:
        raise RuntimeError(f"{' '.join(args)}: {done.stderr.strip() or 'exit status ' + str(done.returncode)}")
    return done.stdout


def remove_stale():
    """Namespaces whose maker was killed: their name ends in its pid."""
    for name in os.listdir("/run/netns") if os.path.isdir("/run/netns") else []:
        found = re.fullmatch(PREFIX + r"\w+-(\d+)", name)
        if found and not os.path.exists(f"/proc/{found[1]}"):
            _run("ip", "netns", "delete", name, check=False)


class Namespace:
    def __init__(self, purpose, *, name=None, bridge="br0", address="10.77.0.1/24", mtu=1500):
        remove_stale()
        self.name = name or f"{PREFIX}{purpose}-{os.getpid()}"
        self.bridge = bridge
        self.address = address.split("/")[0]
        _run("ip", "netns", "add", self.name)
        try:
            self.ip("link", "set", "lo", "up")
            # One of its own, or it takes the lowest of those behind it, and whoever knows the one before is cut off when a
            # tap comes or goes.
            mac = ":".join(["02", "00", *(f"{int(part):02x}" for part in self.address.split("."))])
            self.ip("link", "add", bridge, "address", mac, "mtu", str(mtu), "type", "bridge", "forward_delay", "0",
                    "stp_state", "0", "mcast_snooping", "0")
            self.ip("address", "add", address, "dev", bridge)
            self.ip("link", "set", bridge, "up")
        except RuntimeError:
            self.close()
            raise

    def prefix(self):
        """What to put before a command so that it runs in here; it stays the same process."""
        return ["ip", "netns", "exec", self.name]

    def ip(self, *args):
        return _run("ip", "-n", self.name, *args)

    def run(self, *args):
        return _run(*self.prefix(), *args)

    def enslave(self, link):
        self.ip("link", "set", link, "master", self.bridge, "up")

    def close(self):
        _run("ip", "netns", "delete", self.name, check=False)
