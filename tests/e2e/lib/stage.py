"""One stage for a test: a namespace with a bridge, keeper and daemon in it, and a guest; all of it gone afterwards."""

import contextlib
import os
import pathlib
import shutil
import tempfile

from .everport import Everport, port_toml, require_root
from .guest import REPOSITORY, Guest, make_guest
from .netns import Namespace
from .traffic import Traffic


def build_dir():
    return pathlib.Path(os.environ.get("EVERPORT_BUILD", REPOSITORY / "build/release"))


class Stage(Traffic):
    """Use with `with`. The folder is a short one under /tmp: socket paths have at most 107 bytes."""

    PORT = "vm1"

    def __init__(self, purpose, *, keeper=True, queue_pairs=1, packed=False, mtu=1500, guest_files=None):
        require_root()
        self.queue_pairs, self.packed, self.mtu = queue_pairs, packed, mtu
        self.files = guest_files or make_guest(build_dir() / "guest_tools")
        self._closers = contextlib.ExitStack()
        self.flow_program = build_dir() / "guest_tools/everport-flow"
        self.work = pathlib.Path(tempfile.mkdtemp(prefix=f"everport-{purpose}-"))
        self._closers.callback(shutil.rmtree, self.work, True)
        try:
            self.net = Namespace(purpose, mtu=mtu)
            self._closers.callback(self.net.close)
            self.nic_socket = self.work / "vm1.sock"
            self.everport = Everport(build_dir() / "bin", self.work, prefix=self.net.prefix(), keeper=keeper)
            self._closers.callback(self.everport.stop)
            self.everport.write_config(self.port())
        except BaseException:
            self._closers.close()
            raise
        self.guest = None

    def __enter__(self):
        return self

    def __exit__(self, kind, error, trace):
        if error is not None:
            print(f"\n--- {self.work}: logs at the time of the failure{self.everport.logs()}")
            if self.guest:
                print(self.guest.logs())
        self._closers.close()

    def port(self, tap="ep-vm1", **keys):
        """This stage's port, as configuration text."""
        return port_toml(self.PORT, self.nic_socket, [{"kind": "tap", "device": tap, "bridge": self.net.bridge}],
                         **{"mac": "52:54:00:00:00:02", "queue_pairs": self.queue_pairs, "mtu": self.mtu, **keys})

    def boot(self):
        """Starts a guest, in the place of the one that is there; it may take until a backend is there to come up."""
        if self.guest:
            self.guest.stop()
        self.guest = Guest(self.files, self.work, self.nic_socket, queue_pairs=self.queue_pairs, packed=self.packed,
                           mtu=self.mtu)
        self._closers.callback(self.guest.stop)
        return self.guest

    def start(self):
        """Keeper, daemon and guest, up and reachable."""
        self.everport.start()
        self.boot().wait_booted()
        self.wait_reachable()
        return self

    def wait_reachable(self, timeout=10):
        pinger = self.pinger()
        try:
            pinger.wait_reply(0, timeout)
        finally:
            pinger.close()
