"""The two hosts of lib.migration, each with a libvirtd: a guest is a libvirt domain, and `everportctl migrate` moves it."""

import contextlib
import json
import socket
import threading

from .certificates import Ca
from .everport import Everport
from .guest import Guest
from .libvirt import Libvirtd
from .migration import Hosts, mac_of
from .process import Process, wait_until
from .stage import build_dir

DOMAIN = "vm1"
ADDRESS = "10.77.0.2"
AGENT = "run/vm1-agent.sock"  # on each host: /run is its own


def domain_xml(nic_socket, *, name=DOMAIN, shared=True, idle=False):
    """nic_socket: None for a domain without such a NIC. idle: firmware alone, which finds nothing to boot."""
    memory_mb = 32 if idle else 256
    system = "" if idle else f"""<kernel>/mnt/vmlinuz</kernel><initrd>/mnt/initramfs</initrd>
    <cmdline>console=ttyS0 quiet panic=-1 everport.address={ADDRESS}/24 everport.mtu=1500</cmdline>"""
    channel = "" if idle else f"""<channel type='unix'><source mode='bind' path='/{AGENT}'/>
      <target type='virtio' name='everport.agent'/></channel>"""
    backing = "<memoryBacking><source type='memfd'/><access mode='shared'/></memoryBacking>" if shared else ""
    interface = f"""<interface type='vhostuser'>
      <mac address='{mac_of(0)}'/><source type='unix' path='{nic_socket}' mode='server'/><model type='virtio'/>
    </interface>""" if nic_socket else ""
    return f"""<domain type='qemu'>
  <name>{name}</name><memory unit='MiB'>{memory_mb}</memory><vcpu>1</vcpu>{backing}
  <os>
    <type arch='x86_64' machine='q35'>hvm</type>
    {system}
  </os>
  <features><acpi/></features>
  <devices>
    <emulator>/usr/bin/qemu-system-x86_64</emulator>
    {interface}
    {channel}
    <serial type='file'><source path='/var/log/{name}-console.log'/></serial>
    <controller type='usb' model='none'/><memballoon model='none'/>
  </devices>
</domain>
"""


class DomainGuest(Guest):
    """What runs in the domain, reached through its agent's channel on the host where it is now."""

    def __init__(self, host, name):
        # Nothing of Guest's own: libvirt has started QEMU.
        self.host, self.name, self.address = host, name, ADDRESS
        self._start_agent(self._connect(host.virt.work / "root" / AGENT))

    @staticmethod
    def _connect(path):
        agent = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        agent.connect(str(path))
        return agent

    def _fail_pending(self, why):
        """The channel's end is no answer: the guest may run on elsewhere, and answer there."""

    def stop(self):
        with contextlib.suppress(OSError):  # the other end has gone
            self._agent.shutdown(socket.SHUT_RDWR)
        self._reader.join(5)
        self._agent.close()

    def logs(self):
        return self.host.virt.logs()


class ApiBackend:
    """Keeper and daemon, without ports: they come by the API. Contracts: own-1, which is another on each host, and only-1 or
    only-2, which the other has not. The API over TCP as well, for the hosts' certificates."""

    PORT = 9440

    def __init__(self, host):
        lacks = ["VIRTIO_NET_F_GUEST_ANNOUNCE", "VIRTIO_F_RING_PACKED"][host.number]
        self.everport = Everport(build_dir() / "bin", host.work, prefix=host.net.prefix(), memory="ordinary",
                                 listen=host.certificate.listen(f"{host.address}:{self.PORT}"))
        self.url = f"https://{host.address}:{self.PORT}"
        self.everport.write_config(f'[[contract]]\nname = "own-1"\nwithout = ["{lacks}"]\n',
                                   f'[[contract]]\nname = "only-{host.number + 1}"\n')

    def start(self):
        self.everport.start()

    def stop(self):
        self.everport.stop()

    def logs(self):
        return self.everport.logs() + self.everport.ctl_text("events", "--no-follow", check=False).stdout


class WatchingBackend:
    """Keeper and daemon, without ports: they come with the domains."""

    def __init__(self, host):
        self.everport = Everport(build_dir() / "bin", host.work, prefix=host.net.prefix(), memory="ordinary")
        self.host = host
        self.everport.write_config(self.table())

    def table(self, uri=None, mtu=1500):
        """[libvirt]; uri: None for that of the host's Libvirtd, which comes later."""
        uri = uri or f"qemu+unix:///system?socket={self.host.work}/virt/libvirt-sock"
        return (f'[libvirt]\nuri = "{uri}"\nsocket_folder = "{self.host.work}"\nmtu = {mtu}\n'
                f'[[libvirt.uplink]]\nkind = "tap"\ndevice = "ep-{{port}}"\nbridge = "{self.host.net.bridge}"\n')

    start, stop, logs = ApiBackend.start, ApiBackend.stop, ApiBackend.logs


class Migration:
    """An everportctl migrate that runs. lines: what it has printed; with --json the last is the result."""

    def __init__(self, command, log_path):
        self.lines = []
        self._changed = threading.Condition()
        self.process = Process(command, name="everportctl migrate", log_path=log_path, on_line=self._take)

    def _take(self, line):
        with self._changed:
            self.lines.append(line)
            self._changed.notify_all()

    def wait_line(self, accept, timeout=60):
        with self._changed:
            if not self._changed.wait_for(lambda: any(map(accept, self.lines)), timeout):
                raise TimeoutError(f"everportctl migrate: {self.lines}{self.process.log_tail()}")

    def wait_sending(self):
        """Until memory is being sent."""
        self.wait_line(lambda line: line.startswith("migrate ") and " left, " in line)

    def finish(self, timeout=180):
        """Its exit status; then error is its line on stderr, and result what --json gave."""
        self.status = self.process.wait(timeout)
        said = [line for line in self.process.log_path.read_text().splitlines() if not line.startswith("$ ")]
        self.error = said[-1] if said else ""
        self.result = json.loads(self.lines[-1]) if self.lines and self.lines[-1].startswith("{") else None
        return self.status


class LibvirtHosts(Hosts):
    """The port vm1 is at first on the first host alone. backend: with WatchingBackend it comes with the domain."""

    def __init__(self, purpose, files, backend=ApiBackend):
        super().__init__(purpose, files, self._certified(backend))
        try:
            for host, letter in zip(self.hosts, "ab"):
                host.virt = Libvirtd(host, f"host-{letter}", files)
                self._closers.callback(host.virt.stop)
        except BaseException:
            self._closers.close()
            raise

    def _certified(self, backend):
        """A backend that finds its host with a certificate of a CA that both have."""
        def make(host):
            if host.number == 0:
                self.ca = Ca(self.work / "ca")
            host.certificate = self.ca.issue(f"hv{host.number + 1}", host.address)
            return backend(host)
        return make

    def start(self):
        for host in self.hosts:
            host.backend.start()
            host.virt.start()
        if isinstance(self.hosts[0].backend, ApiBackend):
            self.add_port(self.hosts[0])
        self.create(self.hosts[0], nic_socket=self.hosts[0].socket)
        self.guest = DomainGuest(self.hosts[0], DOMAIN)
        self.guest.wait_booted()
        return self

    @property
    def source(self):
        return self.hosts[self.at]

    @property
    def target(self):
        return self.hosts[1 - self.at]

    def add_port(self, host, name=DOMAIN, *flags, **options):
        """As everportctl port add, on a tap; further flags as they are, options by name."""
        extra = [word for key, value in options.items() for word in (f"--{key.replace('_', '-')}", str(value))]
        host.backend.everport.ctl("port", "add", name, "--socket", str(host.work / f"{name}.sock"), "--mac", mac_of(0),
                                  "--uplink", f"tap:ep-{name},bridge={host.net.bridge}", *flags, *extra)

    def create(self, host, **xml):
        path = self.work / "domain.xml"
        path.write_text(domain_xml(**xml))
        host.virt.virsh("create", path)

    def begin(self, *arguments, options=(), json_output=False, domain=DOMAIN, to=None, dest_api=None, tls=None):
        """Starts everportctl migrate on the host where the guest is, to the other one. tls: the Certificate to show."""
        self.moves += 1
        there = self.target
        own = "--dest-uplink" in options
        start = [] if "--from" in options else ["--from", self.source.virt.uri]
        uplink = [] if own else ["--dest-uplink", f"tap:ep-{{port}},bridge={there.net.bridge}"]
        return Migration(
            [*self.source.net.prefix(), build_dir() / "bin/everportctl",
             "--api", self.source.backend.everport.run_dir / "api.sock",
             *(["--json"] if json_output else []), *(tls.options() if tls else []), "migrate", domain, *start,
             "--to", to or there.virt.uri, "--dest-api", dest_api or there.backend.everport.run_dir / "api.sock",
             "--dest-socket-dir", there.work, *uplink,
             "--migrate-uri", f"unix://{self.work}/to{self.moves}", *arguments, *options],
            self.work / f"migrate{self.moves}.log")

    def arrive(self):
        """The guest has gone to the other host: it is reached there from now on."""
        left, self.at = self.guest, 1 - self.at
        for _ in range(10):
            self.guest = DomainGuest(self.source, DOMAIN)
            self.guest.take_over(left)
            left.stop()
            try:
                self.guest.run("true", timeout=3)
                return
            except TimeoutError:  # the guest's driver has missed that its channel is open again
                left = self.guest
        raise TimeoutError(f"{DOMAIN}: its agent does not answer on {self.source.virt.name}{self.guest.logs()}")

    def move(self, *options, **where):
        """A migration that must succeed; its result."""
        migration = self.begin(*options, json_output=True, **where)
        assert migration.finish() == 0, migration.error
        self.arrive()
        return migration.result

    def traces(self, host):
        """What of a guest is to be seen on a host: ports, domains, sockets of QEMU."""
        ports = [port["name"] for port in host.backend.everport.ctl("ports")]
        return {"ports": ports, "domains": host.virt.domains(), "sockets": [p.name for p in host.work.glob("*.sock")]}
