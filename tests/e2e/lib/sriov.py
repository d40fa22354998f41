"""A guest whose NIC is an SR-IOV device: a PF and two VFs, composed of virtio-net devices, each on a port of its own."""

import pathlib

from .guest import Guest
from .process import wait_until

FUNCTIONS = ("pf", "vf1", "vf2")
MACS = {name: f"52:54:00:00:01:0{number}" for number, name in enumerate(FUNCTIONS)}


def socket_of(work_dir, function):
    return pathlib.Path(work_dir) / f"{function}.sock"


def _network(work_dir, packed):
    """QEMU's arguments. All vhost-user sockets exist from its start, whether the guest has made its VFs or not."""
    args = ["-device", "pcie-root-port,id=sriov-slot"]
    for name in FUNCTIONS:
        args += ["-chardev", f"socket,id={name}-socket,path={socket_of(work_dir, name)},server=on",
                 "-netdev", f"vhost-user,id={name},chardev={name}-socket"]
    # The PF comes last: QEMU completes the device with function 0.
    for number, name in reversed(list(enumerate(FUNCTIONS))):
        args += ["-device", f"virtio-net-pci,bus=sriov-slot,addr=0x0.0x{number},netdev={name},mac={MACS[name]},"
                 f"packed={'on' if name in packed else 'off'}," + ("id=pf" if name == "pf" else "sriov-pf=pf")]
    return args


class SriovGuest(Guest):
    """The PF is eth0. Each VF has a network namespace of its own in the guest, or shares one: see take_vf.

    packed: the functions with packed rings; the others have split ones.
    """

    PF = "/sys/bus/pci/devices/0000:01:00.0"  # the first function behind the only root port

    def __init__(self, files, work_dir, *, name="sriov", packed=("vf2",), **options):
        super().__init__(files, work_dir, None, name=name, qemu="qemu-sriov", network=_network(work_dir, packed),
                         **options)

    def create_vfs(self):
        """Both of them; their netdevs' names."""
        self.run(f"echo 2 > {self.PF}/sriov_numvfs")
        return wait_until(self._netdevs, 10, "the VFs' network devices")

    def _netdevs(self):
        found = self.run(f"ls -d {self.PF}/virtfn[01]/virtio*/net/*", check=False).split()
        names = [path.rpartition("/")[2] for path in found if path.startswith("/")]
        return names if len(names) == 2 else None

    def destroy_vfs(self):
        """Both are gone when it returns."""
        self.run(f"echo 0 > {self.PF}/sriov_numvfs")
        left = self.run(f"ls -d {self.PF}/virtfn* 2> /dev/null || true")
        if left:
            raise RuntimeError(f"{self.name}: VFs that were destroyed are there: {left}")

    # --- namespaces: two functions on one subnet would answer for each other's addresses otherwise

    def add_namespace(self, namespace):
        """Its first process's id is in /run/NAME, its own view of /sys at /run/NAME.sys."""
        run = f"/run/{namespace}"
        self.run(f"unshare -n sh -c 'ip link set lo up; mkdir {run}.sys; mount -t sysfs sysfs {run}.sys; "
                 f"echo $$ > {run}.new; mv {run}.new {run}; exec sleep 1000000' > /dev/null 2>&1 & "
                 f"while [ ! -e {run} ]; do usleep 1000; done")

    @staticmethod
    def within(namespace, command):
        """The command that runs this one in the namespace."""
        return f"nsenter -n -t $(cat /run/{namespace}) {command}"

    def take_vf(self, netdev, namespace, address):
        """Moves a VF's netdev there, with this address, and up."""
        self.run(f"ip link set {netdev} netns $(cat /run/{namespace}) && "
                 + " && ".join(self.within(namespace, f"ip {do} {netdev}")
                               for do in (f"address add {address} dev", "link set up dev")))

    def netdevs_in(self, namespace):
        """Network devices there, besides lo."""
        return [name for name in self.run(f"ls /run/{namespace}.sys/class/net").split() if name != "lo"]

    def links_in(self, namespace):
        """Of each of them, whether it has its carrier, and how often that has changed."""
        folder = f"/run/{namespace}.sys/class/net"
        return {name: tuple(self.run(f"cat {folder}/{name}/carrier {folder}/{name}/carrier_changes").split())
                for name in self.netdevs_in(namespace)}
