"""Two 'hosts' on one machine, and a guest that moves between them.

    with Hosts("migration", guest_files, EverportBackend) as hosts:
        hosts.start()                    # the guest runs on the first
        result = hosts.migrate()         # to the other; result.downtime_ms, …

Each host is a network namespace with a bridge of its own; a third one, hosts.net, joins the two and is where the guest
is reached from.
"""

import contextlib
import dataclasses
import os
import pathlib
import shutil
import tempfile

from .everport import Everport, port_toml, require_root
from .guest import Guest
from .netns import Namespace
from .process import Process, wait_until
from .stage import build_dir
from .traffic import Traffic
from .uplinks import Uplink


def mac_of(nic):
    return f"52:54:00:00:00:{nic + 2:02x}"


class EverportBackend:
    """Keeper and daemon, with a port on a tap for each of the guest's NICs.

    kinds(host, nic): the kind of uplink (uplinks.KINDS) that a NIC, by number from 0, has on a host, by number.
    """

    name = "everport"

    def __init__(self, host, kinds=None, **port_keys):
        self.everport = Everport(build_dir() / "bin", host.work, prefix=host.net.prefix(), memory="ordinary")
        self.uplinks = [Uplink(host, kinds(host.number, nic) if kinds else "tap", nic) for nic in range(len(host.sockets))]
        self._sockets, self._port_keys = host.sockets, port_keys
        self.everport.write_config(*self.ports())

    def ports(self, **other_keys):
        """What the configuration says of them, with these keys in place of what it said first."""
        keys = {**self._port_keys, **other_keys}
        return [port_toml(f"vm{nic + 1}", socket, [self.uplinks[nic].config()], mac=mac_of(nic), **keys)
                for nic, socket in enumerate(self._sockets)]

    def start(self):
        self.everport.start()
        for uplink in self.uplinks:
            uplink.start()

    def stop(self):
        for uplink in self.uplinks:
            uplink.stop()
        self.everport.stop()

    def logs(self):
        return self.everport.logs() + self.everport.ctl_text("events", "--no-follow", check=False).stdout


class TestpmdBackend:
    """The peer: DPDK's testpmd between a vhost port and a tap, as an operator would set it up."""

    __test__ = False  # pytest: this is no test
    name = "testpmd"
    TAP = "tp-vm1"

    def __init__(self, host):
        self.host = host
        self.process = None

    def start(self):
        self.process = Process(
            [*self.host.net.prefix(), "dpdk-testpmd", "-l", "0,1", "--no-huge", "-m", 256, "--no-pci",
             f"--file-prefix=everport-{self.host.net.name}", f"--vdev=net_vhost0,iface={self.host.socket},client=1",
             f"--vdev=net_tap0,iface={self.TAP}", "--", "--forward-mode=io", "--auto-start", "--nb-cores=1",
             "--stats-period=3600", "--no-lsc-interrupt", "--disable-link-check", "--total-num-mbufs=8192"],
            name=f"testpmd ({self.host.net.name})", log_path=self.host.work / "testpmd.log")
        wait_until(self._enslave, 20, f"testpmd has made {self.TAP}")

    def _enslave(self):
        if not self.process.alive():
            raise RuntimeError(f"{self.process.name} ended{self.process.log_tail()}")
        try:
            self.host.net.enslave(self.TAP)
        except RuntimeError:
            return False
        return True

    def stop(self):
        if self.process:
            self.process.stop()

    def logs(self):
        return self.process.log_tail() if self.process else ""


class Host:
    def __init__(self, purpose, number, net, backend, nics, **options):
        self.number = number
        letter = "ab"[number]
        self.work = net.work / letter
        self.work.mkdir()
        self.sockets = [self.work / f"vm{nic + 1}.sock" for nic in range(nics)]
        self.address = f"10.77.0.{11 + number}"
        self.net = Namespace(f"{purpose}{letter}", address=f"{self.address}/24")
        net.join(self.net, letter)
        self.backend = backend(self, **options)

    @property
    def socket(self):
        return self.sockets[0]

    def close(self):
        self.backend.stop()
        self.net.close()


class Joined(Namespace):
    """The network between the hosts."""

    def __init__(self, purpose, work):
        super().__init__(purpose)
        self.work = work

    def join(self, host, letter):
        self.ip("link", "add", f"to-{letter}", "type", "veth", "peer", "name", "out", "netns", host.name)
        self.enslave(f"to-{letter}")
        host.enslave("out")


@dataclasses.dataclass
class Migrated:
    status: str  # QEMU's: completed, failed, cancelled
    downtime_ms: float
    total_ms: float
    resumed: float  # time.time() at which the destination's QEMU let the guest go on
    differing: list  # pages that are not the same at the destination; None: not compared
    fetched: int = 0  # pages that the destination asked for, by post-copy


def differing_pages(source, destination, page=4096):
    """Of two Guests that do not run, the pages whose contents are not the same: their addresses in the memory's file."""
    pages, chunk = [], 1 << 20
    with source.memory() as there, destination.memory() as here:
        for start in range(0, os.fstat(there.fileno()).st_size, chunk):
            a, b = there.read(chunk), here.read(chunk)
            if a != b:
                pages += [hex(start + at) for at in range(0, chunk, page) if a[at:at + page] != b[at:at + page]]
    return pages


@dataclasses.dataclass
class Postcopy:
    """The guest goes on at the destination while most of its memory is still at the source.

    meanwhile(arriving) is called once, when the guest goes on there; until it has returned so little comes in a second. The
    guest's memory is some 80 MB.
    """

    meanwhile: object = None
    rate: int = 2 << 20  # bytes/s meanwhile
    BEFORE = 8 << 20  # so low that there is something left

    def prepare(self, guest):
        guest.allow_postcopy()
        guest.qmp("migrate-set-parameters", **{"max-bandwidth": self.BEFORE,
                                               "max-postcopy-bandwidth": self.rate if self.meanwhile else 0})

    def switch(self, guest, arriving, timeout):
        """Once it has begun; what it has come to."""
        status = guest.wait_migration("active", "failed", timeout=timeout)
        if status == "failed":
            return status
        guest.qmp("migrate-start-postcopy")
        status = guest.wait_migration("postcopy-active", "completed", "failed", timeout=timeout)
        if status == "postcopy-active" and self.meanwhile:
            self.meanwhile(arriving)
            guest.qmp("migrate-set-parameters", **{"max-postcopy-bandwidth": 0})
        return status


def move(guest, arriving, uri, before_switch=None, compare=False, timeout=60, postcopy=None):
    """guest migrates to arriving, a Guest that awaits it at uri; Migrated. One of the two is stopped: the one without it.

    before_switch(arriving) is called once, while memory is being sent. compare: arriving is paused, and goes on when its
    memory has been compared. postcopy: a Postcopy.
    """
    try:
        arriving.wait_migration("setup")
        guest.tell_migration()
        if postcopy:
            postcopy.prepare(guest)
        guest.qmp("migrate", uri=uri)
        status = postcopy.switch(guest, arriving, timeout) if postcopy else "active"
        if before_switch:
            guest.wait_migration("active", timeout=timeout)
            before_switch(arriving)
        if status in ("active", "postcopy-active"):
            status = guest.wait_migration("completed", "failed", "cancelled", "postcopy-paused", timeout=timeout)
        if status != "completed":
            arriving.stop()
            return Migrated(status, 0, 0, 0, None)
        # QEMU says "completed" before it has reckoned up.
        said = wait_until(lambda: (lambda said: "downtime" in said and said)(guest.qmp("query-migrate")), 10,
                          "QEMU's account of the migration")
        differing = None
        if compare:
            differing = differing_pages(guest, arriving)
            arriving.qmp("cont")
        resumed = arriving.wait_event("RESUME", timeout)
        if postcopy:
            arriving.wait_migration("completed", timeout=timeout)  # it went on before
            arriving.allow_postcopy(False)  # on its next way
    except BaseException:
        print(arriving.logs())
        arriving.stop()
        raise
    arriving.take_over(guest)
    guest.stop()
    return Migrated(status, said["downtime"], said["total-time"], resumed, differing, said["ram"]["postcopy-requests"])


class Hosts(Traffic):
    def __init__(self, purpose, guest_files, backend, *, nics=1, queue_pairs=1, packed=False, device_options="", **options):
        require_root()
        self.nics = nics
        self.files, self.queue_pairs, self.packed, self.device_options = guest_files, queue_pairs, packed, device_options
        self._closers = contextlib.ExitStack()
        self.work = pathlib.Path(tempfile.mkdtemp(prefix=f"everport-{purpose}-"))
        self._closers.callback(shutil.rmtree, self.work, True)
        self.flow_program = build_dir() / "guest_tools/everport-flow"
        self.hosts = []
        self.guest = None
        self.at = 0  # index of the host that the guest runs on
        self.moves = 0
        try:
            self.net = Joined(f"{purpose}net", self.work)
            self._closers.callback(self.net.close)
            for number in range(2):
                self.hosts.append(Host(purpose, number, self.net, backend, nics, **options))
                self._closers.callback(self.hosts[-1].close)
        except BaseException:
            self._closers.close()
            raise

    def __enter__(self):
        return self

    def __exit__(self, kind, error, trace):
        if error is not None:
            for host in self.hosts:
                print(f"\n--- {host.net.name}: logs at the time of the failure{host.backend.logs()}")
            if self.guest:
                print(self.guest.logs())
        if self.guest:
            self.guest.stop()
        self._closers.close()

    def boot(self, host, incoming=None, paused=False, postcopy=False):
        """A QEMU on that host: with the guest's system, or waiting for a guest to come."""
        return Guest(self.files, host.work, host.sockets, mac=[mac_of(nic) for nic in range(self.nics)],
                     name=f"guest{self.moves}", queue_pairs=self.queue_pairs, packed=self.packed,
                     device_options=self.device_options, incoming=incoming, paused=paused,
                     postcopy=postcopy)

    def start(self):
        for host in self.hosts:
            host.backend.start()
        self.guest = self.boot(self.hosts[0])
        self.guest.wait_booted()
        return self

    def migrate(self, before_switch=None, compare=False, timeout=60, postcopy=None):
        """Moves the guest to the other host. before_switch(arriving) is called once, while memory is being sent.
        postcopy: a Postcopy.

        A migration that does not complete leaves the guest where it is.
        """
        target = self.hosts[1 - self.at]
        self.moves += 1
        uri = f"unix:{self.work}/to{self.moves}"
        arriving = self.boot(target, incoming=uri, paused=compare, postcopy=postcopy is not None)
        moved = move(self.guest, arriving, uri, before_switch, compare, timeout, postcopy)
        if moved.status == "completed":
            self.guest, self.at = arriving, 1 - self.at
        return moved
