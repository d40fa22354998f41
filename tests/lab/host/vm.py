"""The lab VM: QEMU out of the lab's root, with the hardware of lib/machine.py."""

import json
import os
import pathlib
import queue
import select
import signal
import socket
import threading
import time

from e2e.lib.process import Process
from lab.host import shell
from lab.lib import machine

# What the kernel says, each 21 s, when an emulated CPU's timer has not come and will not: that boot never ends.
LOST_TIMER = "rcu_preempt kthread timer wakeup didn't happen"


class Qmp:
    """QEMU's monitor. One command at a time, from any thread."""

    def __init__(self, sock):
        self._socket = sock
        self._answers = queue.Queue()
        self._deleted = set()
        self._changed = threading.Condition()
        self._lock = threading.Lock()
        threading.Thread(target=self._read, daemon=True).start()
        self.execute("qmp_capabilities")

    def _read(self):
        for line in self._socket.makefile("rb"):
            message = json.loads(line)
            if message.get("event") == "DEVICE_DELETED":
                with self._changed:
                    self._deleted.add(message["data"].get("device"))
                    self._changed.notify_all()
            elif "return" in message or "error" in message:
                self._answers.put(message)
        self._answers.put({"error": {"desc": "QEMU has ended"}})

    def execute(self, command, **arguments):
        with self._lock:
            self._socket.sendall(json.dumps({"execute": command, "arguments": arguments}).encode() + b"\n")
            answer = self._answers.get(timeout=60)
        if "error" in answer:
            raise RuntimeError(f"{command}: {answer['error']['desc']}")
        return answer["return"]

    def human(self, command, wait):
        """(whether it went well, what it said)."""
        words = command.split()
        unplugs = words[:1] == ["device_del"] and len(words) == 2
        with self._changed:
            self._deleted.discard(words[-1] if words else None)
        output = self.execute("human-monitor-command", **{"command-line": command})
        if output.startswith(("Error:", "unknown command")) or (words[:1] == ["set_link"] and output.strip()):
            return False, output
        if unplugs and wait:
            with self._changed:
                if not self._changed.wait_for(lambda: words[1] in self._deleted, 30):
                    return False, "the VM's kernel has not let go of it within 30 s"
        return True, output


class Vm:
    """Starts at once. Use with `with`: it is gone afterwards. shares: 9p tag to host folder, for root, src, build, results."""

    def __init__(self, mode, root, kernel, initramfs, shares, logs):
        self.mode = mode
        self.console_log = pathlib.Path(logs) / f"console-{mode}.log"
        ends = {name: socket.socketpair() for name in ("qmp", "run", "monitor", "shell")}
        self._ours = {name: pair[0] for name, pair in ends.items()}
        theirs = {name: pair[1] for name, pair in ends.items()}
        args = [*qemu(root), *board(), *nics(), *share_args(shares),
                "-kernel", kernel, "-initrd", initramfs, "-append", kernel_command_line(mode),
                "-chardev", f"file,id=console,path={self.console_log}", "-serial", "chardev:console",
                "-chardev", f"socket,id=qmp,fd={theirs['qmp'].fileno()}", "-mon", "chardev=qmp,mode=control",
                "-device", "virtio-serial-pci,id=serial"]
        for name in ("run", "monitor"):
            args += ["-chardev", f"socket,id={name},fd={theirs[name].fileno()}",
                     "-device", f"virtserialport,bus=serial.0,chardev={name},name=lab.{name}"]
        args += ["-chardev", f"socket,id=shell,fd={theirs['shell'].fileno()}", "-device", "virtconsole,chardev=shell"]
        self.process = Process(args, name="QEMU (lab)", log_path=pathlib.Path(logs) / f"qemu-{mode}.log",
                               pass_fds=[s.fileno() for s in theirs.values()],
                               env={"QEMU_MODULE_DIR": f"{root}/usr/lib/x86_64-linux-gnu/qemu"})
        for sock in theirs.values():
            sock.close()
        self._lost_timer = False
        self.qmp = Qmp(self._ours["qmp"])
        threading.Thread(target=self._serve_monitor, daemon=True).start()
        self._lines = self._ours["run"].makefile("rb")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        for sock in self._ours.values():
            sock.close()

    def _serve_monitor(self):
        """A request of lib/monitor.py after the other."""
        sock = self._ours["monitor"]
        for line in sock.makefile("rb"):
            request = json.loads(line)
            try:
                ok, output = self.qmp.human(request["command"], request["wait"])
            except Exception as error:  # the VM waits for an answer, whatever it is
                ok, output = False, str(error)
            sock.sendall(json.dumps({"ok": ok, "output": output.replace("\r", "")}).encode() + b"\n")

    def _receive(self, timeout):
        self._ours["run"].settimeout(timeout)
        try:
            line = self._lines.readline()
        except TimeoutError:
            raise RuntimeError(f"the lab VM has said nothing for {timeout:.0f} s{self.logs()}") from None
        if not line:
            what = "was ended: its kernel waits for a timer that an emulated CPU has lost" if self._lost_timer else "has ended"
            raise RuntimeError(f"the lab VM {what}{self.logs()}")
        return json.loads(line)

    def _console_says(self, words):
        return words in self.console_log.read_text(errors="replace")

    def _watch_timers(self):
        """Ends the VM if one is lost: no test that sleeps on that CPU ends."""
        while self.process.alive():
            if self._console_says(LOST_TIMER):
                self._lost_timer = True
                self.process.signal(signal.SIGKILL)
                return
            time.sleep(2)

    def wait_ready(self, timeout):
        deadline = time.monotonic() + timeout
        while not select.select([self._ours["run"]], [], [], 1)[0]:
            if self._console_says(LOST_TIMER):
                raise RuntimeError(f"the lab VM's kernel waits for a timer that an emulated CPU has lost{self.logs()}")
            if time.monotonic() > deadline:
                raise RuntimeError(f"the lab VM has said nothing for {timeout:.0f} s{self.logs()}")
        self._receive(10)
        threading.Thread(target=self._watch_timers, daemon=True).start()

    def run(self, test, on_line):
        """(exit status, seconds); on_line gets the test's output as it comes. It has our own EVERPORT_… settings."""
        settings = {name: value for name, value in os.environ.items() if name.startswith("EVERPORT_")}
        self._send({"run": test.name, "file": test.path.name, "timeout": test.timeout, "settings": settings})
        deadline = time.monotonic() + test.timeout + 60
        while True:
            message = self._receive(max(deadline - time.monotonic(), 0.1))
            if "status" in message:
                return message["status"], message["seconds"]
            on_line(message["line"])

    def shell(self):
        """Connects this terminal to a shell in the VM, until that ends."""
        columns, rows = shell.size()
        self._send({"shell": {"columns": columns, "rows": rows}})
        shell.connect(self._ours["shell"], self._ours["run"])

    def _send(self, message):
        self._ours["run"].sendall(json.dumps(message).encode() + b"\n")

    def logs(self):
        return self.process.log_tail(10) + tail(self.console_log)


def tail(path, lines=30):
    try:
        return f"\n--- {path}\n" + "\n".join(path.read_text(errors="replace").splitlines()[-lines:])
    except OSError:
        return ""


def qemu(root):
    """Run by the root's own loader, with its libraries and ROMs, but in our file system."""
    return [f"{root}/lib64/ld-linux-x86-64.so.2", "--library-path", f"{root}/usr/lib/x86_64-linux-gnu",
            f"{root}/usr/bin/qemu-system-x86_64", "-L", f"{root}/usr/share/qemu", "-L", f"{root}/usr/share/seabios"]


def board():
    cpus = machine.NODES * machine.CPUS_PER_NODE
    args = ["-M", "q35,sata=off,smbus=off", "-accel", "tcg,thread=multi", "-cpu", "max",
            "-smp", f"{cpus},sockets={machine.NODES},cores={machine.CPUS_PER_NODE}",
            "-m", machine.NODES * machine.MEMORY_PER_NODE_MB,
            "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
            "-device", "intel-iommu,intremap=on,caching-mode=on", "-device", "virtio-rng-pci"]
    for node in range(machine.NODES):
        first = node * machine.CPUS_PER_NODE
        args += ["-object", f"memory-backend-memfd,id=mem{node},size={machine.MEMORY_PER_NODE_MB}M,share=on",
                 "-numa", f"node,nodeid={node},cpus={first}-{first + machine.CPUS_PER_NODE - 1},memdev=mem{node}"]
    return args


def nics():
    args = []
    for index, (name, options) in enumerate(machine.NICS.items()):
        args += ["-netdev", f"hubport,id=wire{index},hubid=0",
                 "-device", f"pcie-root-port,id=slot{index},chassis={index + 1},slot={index + 1}", "-device", options]
    return args


def share_args(shares):
    args = []
    for tag, folder in shares.items():
        readonly = "off" if tag == "results" else "on"
        args += ["-virtfs", f"local,path={folder},mount_tag={tag},security_model=none,readonly={readonly},multidevs=remap"]
    return args


def kernel_command_line(mode):
    hugepages = ",".join(f"{node}:{machine.HUGEPAGES_PER_NODE}" for node in range(machine.NODES))
    return (f"console=ttyS0 quiet panic=-1 mitigations=off net.ifnames=0 tsc=reliable intel_iommu=on iommu=pt "
            f"hugepagesz=2M hugepages={hugepages} lab.mode={mode} "
            # systemd: caches of a system that is made anew (ldconfig alone takes half a minute), log-in prompts.
            "systemd.condition_needs_update=no systemd.mask=getty.target systemd.mask=serial-getty@ttyS0.service "
            "systemd.mask=serial-getty@hvc0.service systemd.mask=modprobe@drm.service")
