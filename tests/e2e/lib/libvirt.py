"""libvirt on two 'hosts' of one machine: each has a libvirtd of its own, of the Debian 13 root that make-guest --libvirt makes.

Each runs in a chroot of that root, with its own mounts over /run, /etc/libvirt and the like, in namespaces of its own; what
it starts is gone when it is gone. /tmp is the machine's, so paths below it are the same within and without; so are the
guest's files, which are under /mnt within.
"""

import os
import pathlib
import signal
import socket
import subprocess
import uuid

from .process import Process, wait_until

# Where a host's own folder takes the place of the root's.
OWN = ("run", "etc/libvirt", "var/lib/libvirt", "var/cache/libvirt", "var/log")
SETUP = """set -e
cd "$ROOT"
mount --rbind /dev dev; mount -t proc proc proc; mount --rbind /sys sys; mount --bind /tmp tmp; mount --bind "$FILES" mnt
for own in $OWN; do mount --bind "$HOST/root/$own" "$own"; done
mkdir -p run/libvirt run/lock
hostname "$NAME"
while :; do
  chroot . /usr/sbin/libvirtd --config /etc/libvirt/libvirtd.conf &
  wait $! || true  # not exec: process 1 must reap the QEMUs that libvirtd lets go of, or it waits for them
  rm "$HOST/restart" || exit 1
done
"""


class Libvirtd:
    """uri is for clients out here and for the other libvirtd alike."""

    def __init__(self, host, name, files):
        self.name, self.files, self.work = name, pathlib.Path(files), host.work / "virt"
        self.prefix = host.net.prefix()
        self.process = None
        for own in OWN:
            (self.work / "root" / own).mkdir(parents=True)
        self.socket = self.work / "libvirt-sock"
        self.uri = f"qemu+unix:///system?socket={self.socket}"
        (self.work / "root/etc/libvirt/libvirtd.conf").write_text(
            f'host_uuid = "{uuid.uuid4()}"\nunix_sock_dir = "{self.work}"\nauth_unix_rw = "none"\n'
            'log_outputs = "2:file:/var/log/libvirtd.log"\n')
        # Destinations that die are noticed within 2 * 3 s.
        (self.work / "root/etc/libvirt/qemu.conf").write_text(
            'user = "root"\ngroup = "root"\nsecurity_driver = "none"\nnamespaces = []\ncgroup_controllers = []\n'
            'stdio_handler = "file"\ndynamic_ownership = 0\nremember_owner = 0\nkeepalive_interval = 2\n'
            'keepalive_count = 3\n')

    def start(self, timeout=60):
        self.socket.unlink(missing_ok=True)
        self.process = Process(
            [*self.prefix, "unshare", "--mount", "--uts", "--pid", "--fork", "--kill-child", "--propagation", "private",
             "sh", "-c", SETUP],
            name=f"libvirtd ({self.name})", log_path=self.work / "libvirtd.out",
            env={"ROOT": str(self.files / "root-libvirt"), "FILES": str(self.files), "HOST": str(self.work),
                 "OWN": " ".join(OWN), "NAME": self.name})
        wait_until(self._answers, timeout, f"libvirtd {self.name} listens", interval=0.1)

    def _answers(self):
        if not self.process.alive():
            raise RuntimeError(f"{self.process.name} ended{self.logs()}")
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
                probe.connect(str(self.socket))
                return True
        except OSError:
            return False

    def virsh(self, *args, check=True, timeout=60):
        """virsh, of that root; what it says."""
        root = self.files / "root-libvirt"
        lib = root / "usr/lib/x86_64-linux-gnu"
        done = subprocess.run(
            [str(root / "lib64/ld-linux-x86-64.so.2"), "--library-path", str(lib), str(root / "usr/bin/virsh"), "-c",
             self.uri, *[str(arg) for arg in args]], capture_output=True, text=True, timeout=timeout)
        if check and done.returncode != 0:
            raise RuntimeError(f"virsh {' '.join(map(str, args))}: {done.stderr.strip()}{self.logs()}")
        return done.stdout.strip()

    def domains(self):
        """Names of all of them, running or not."""
        return self.virsh("list", "--all", "--name").split()

    def pause(self):
        """It answers nobody any more (the guests run on), until resume."""
        os.kill(self._pid(), signal.SIGSTOP)

    def resume(self):
        os.kill(self._pid(), signal.SIGCONT)

    def restart(self, timeout=60):
        """As its service manager would: it stops, the guests run on, and another comes."""
        before = self._pid()
        (self.work / "restart").touch()
        os.kill(before, signal.SIGTERM)
        wait_until(lambda: not (self.work / "restart").exists() and self._answers(), timeout,
                   f"libvirtd {self.name} is there again", interval=0.1)

    def _pid(self):
        """A child of the namespace's process 1, which is the child of what we have started; QEMUs are its children too."""
        init = self._children(self.process.pid)[0]
        return next(pid for pid in self._children(init)
                    if pathlib.Path(f"/proc/{pid}/comm").read_text().strip() == "libvirtd")

    @staticmethod
    def _children(pid):
        return [int(child) for child in pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]

    def stop(self):
        if self.process:
            self.process.kill()

    def logs(self):
        text = self.process.log_tail() if self.process else ""
        for path in [self.work / "root/var/log/libvirtd.log", *(self.work / "root/var/log").glob("libvirt/qemu/*.log")]:
            try:
                text += f"\n--- {path}\n" + "\n".join(path.read_text(errors="replace").splitlines()[-25:])
            except OSError:
                pass
        return text
