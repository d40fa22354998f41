"""The two hosts of lib.migration, each with a libvirtd: a guest is a libvirt domain, and `everportctl migrate` moves it."""

import socket

from .guest import Guest
from .libvirt import Libvirtd
from .migration import MAC, EverportBackend, Hosts

DOMAIN = "vm1"
AGENT = "run/vm1-agent.sock"  # on each host: /run is its own


def domain_xml(nic_socket, *, name=DOMAIN, shared=True, nic=True, memory_mb=256, mac=MAC):
    backing = "<memoryBacking><source type='memfd'/><access mode='shared'/></memoryBacking>" if shared else ""
    interface = f"""<interface type='vhostuser'>
      <mac address='{mac}'/><source type='unix' path='{nic_socket}' mode='server'/><model type='virtio'/>
    </interface>""" if nic else ""
    return f"""<domain type='qemu'>
  <name>{name}</name><memory unit='MiB'>{memory_mb}</memory><vcpu>1</vcpu>{backing}
  <os>
    <type arch='x86_64' machine='q35'>hvm</type><kernel>/mnt/vmlinuz</kernel><initrd>/mnt/initramfs</initrd>
    <cmdline>console=ttyS0 quiet panic=-1 everport.address=10.77.0.2/24 everport.mtu=1500</cmdline>
  </os>
  <features><acpi/></features>
  <devices>
    <emulator>/usr/bin/qemu-system-x86_64</emulator>
    {interface}
    <channel type='unix'><source mode='bind' path='/{AGENT}'/><target type='virtio' name='everport.agent'/></channel>
    <serial type='file'><source path='/var/log/{name}-console.log'/></serial>
    <controller type='usb' model='none'/><memballoon model='none'/>
  </devices>
</domain>
"""


class DomainGuest(Guest):
    """What runs in the domain, reached through its agent's channel on the host where it is now."""

    def __init__(self, host, name, address="10.77.0.2"):
        # Nothing of Guest's own: libvirt has started QEMU.
        self.host, self.name, self.address = host, name, address
        self._start_agent(self._connect(host.virt.work / "root" / AGENT))

    @staticmethod
    def _connect(path):
        agent = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        agent.connect(str(path))
        return agent

    def stop(self):
        self._agent.shutdown(socket.SHUT_RDWR)
        self._reader.join(5)
        self._agent.close()

    def logs(self):
        return self.host.virt.logs()


class LibvirtHosts(Hosts):
    """migrate() runs everportctl; what it has said is in Moved."""

    def __init__(self, purpose, files, **options):
        super().__init__(purpose, files, EverportBackend, **options)
        try:
            for host, letter in zip(self.hosts, "ab"):
                host.virt = Libvirtd(host, f"host-{letter}", files)
                self._closers.callback(host.virt.stop)
        except BaseException:
            self._closers.close()
            raise

    def start(self, **xml):
        for host in self.hosts:
            host.backend.start()
            host.virt.start()
        self.guest = self.create(self.hosts[0], **xml)
        self.guest.wait_booted()
        return self

    def create(self, host, **xml):
        path = self.work / "domain.xml"
        path.write_text(domain_xml(host.socket, **xml))
        host.virt.virsh("create", path)
        return DomainGuest(host, DOMAIN)
