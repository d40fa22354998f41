"""A real guest: QEMU with a vhost-user NIC, Debian's kernel, a busybox initramfs and our agent in it (make-guest)."""

import concurrent.futures
import json
import os
import pathlib
import queue
import socket
import subprocess
import threading
import time

from .process import Process

REPOSITORY = pathlib.Path(__file__).resolve().parents[3]


def make_guest(tools_dir, *options):
    """Runs tests/setup/make-guest; the folder it made."""
    done = subprocess.run([REPOSITORY / "tests/setup/make-guest", *options, tools_dir], stdout=subprocess.PIPE, text=True)
    if done.returncode != 0:
        raise RuntimeError("tests/setup/make-guest failed; what it said is above")
    return pathlib.Path(done.stdout.splitlines()[-1])


class Result:
    def __init__(self, status, output):
        self.status = status
        self.output = output


class Guest:
    """Starts at once; wait_booted() returns when its agent answers, which is after its NIC is up.

    With server=on QEMU comes no further than its netdev until a backend has connected to nic_socket.
    nic_socket, mac: of its NIC; lists of both for several NICs, the first of which has the address.
    network: QEMU's arguments for network devices of another make, in the place of those NICs.
    qemu: the file in files that runs it.
    incoming: an address at which a guest is awaited that migrates here (take_over). paused: until qmp("cont").
    postcopy: it may come that way; RuntimeError with what QEMU says if not.
    """

    def __init__(self, files, work_dir, nic_socket, *, name="guest", address="10.77.0.2/24", mac="52:54:00:00:00:02",
                 queue_pairs=1, packed=False, mtu=1500, memory_mb=256, detach=False, device_options="",
                 network=None, qemu="qemu", incoming=None, paused=False, postcopy=False, kernel_options="",
                 qemu_options=()):
        self.name = name
        self.address = address.split("/")[0]
        self.console_socket = pathlib.Path(work_dir) / f"{name}-console.sock"
        self.console_log = pathlib.Path(work_dir) / f"{name}-console.log"
        files = pathlib.Path(files)
        self.accel = (files / "accel").read_text().strip()
        agent, agent_end = socket.socketpair()
        qmp, qmp_end = socket.socketpair()
        vcpus = queue_pairs  # the guest's driver uses as many queue pairs as it has CPUs
        args = [
            files / qemu, "-name", name, "-machine", "q35,memory-backend=mem",
            "-accel", "tcg,thread=multi" if self.accel == "tcg" else self.accel,
            "-smp", vcpus, "-m", memory_mb, "-nodefaults", "-no-user-config", "-display", "none",
            "-object", f"memory-backend-memfd,id=mem,size={memory_mb}M,share=on",
            "-kernel", files / "vmlinuz", "-initrd", files / "initramfs",
            "-append", f"console=ttyS0 quiet panic=-1 everport.address={address} everport.mtu={mtu} {kernel_options}",
            "-chardev", f"socket,id=console,path={self.console_socket},server=on,wait=off,logfile={self.console_log}",
            "-serial", "chardev:console",
            "-chardev", f"socket,id=agent,fd={agent_end.fileno()}", "-device", "virtio-serial-pci",
            "-device", "virtserialport,chardev=agent,name=everport.agent",
            "-chardev", f"socket,id=qmp,fd={qmp_end.fileno()}", "-mon", "chardev=qmp,mode=control",
        ]
        if network is None:
            several = isinstance(nic_socket, list)
            network = []
            for number, (path, nic_mac) in enumerate(zip(nic_socket, mac) if several else [(nic_socket, mac)]):
                network += [
                    "-chardev", f"socket,id=nic{number},path={path},server=on",
                    "-netdev", f"vhost-user,id=nic{number},chardev=nic{number},queues={queue_pairs}",
                    "-device", f"virtio-net-pci,netdev=nic{number},mac={nic_mac},packed={'on' if packed else 'off'}"
                    + (f",mq=on,vectors={2 * queue_pairs + 2}" if queue_pairs > 1 else "")
                    + (f",host_mtu={mtu}" if mtu != 1500 else "")
                    + ("," + device_options if device_options else ""),
                ]
        args += network
        if incoming:
            args += ["-incoming", "defer"]
        if paused:
            args += ["-S"]
        args += qemu_options
        self.process = Process(args, name=f"QEMU ({name})", log_path=pathlib.Path(work_dir) / f"{name}-qemu.log",
                               pass_fds=(agent_end.fileno(), qmp_end.fileno()), detach=detach)
        agent_end.close()
        qmp_end.close()
        self._start_agent(agent)
        self._qmp = qmp
        self._qmp_file = None
        self._events = []
        if incoming:
            self.tell_migration()
            try:
                if postcopy:
                    self.allow_postcopy()
                self.qmp("migrate-incoming", uri=incoming)
            except BaseException:
                self.stop()
                raise

    # --- commands in the guest

    def _start_agent(self, agent):
        self._agent = agent
        self._lock = threading.Lock()
        self._next_id = 0
        self._pending = {}
        self._boots = queue.Queue()
        self._reader = threading.Thread(target=self._read_agent, daemon=True)
        self._reader.start()

    def _read_agent(self):
        stream = self._agent.makefile("rb")
        for line in iter(stream.readline, b""):
            if line.strip().endswith(b"READY"):
                self._fail_pending("the guest was restarted")
                self._boots.put(True)
                continue
            fields = line.split()
            if len(fields) != 3 or not all(f.isdigit() for f in fields):
                continue  # the rest of a reply that a reset has cut off
            result = Result(int(fields[1]), stream.read(int(fields[2])).decode(errors="replace"))
            with self._lock:
                future = self._pending.pop(int(fields[0]), None)
            if future:
                future.set_result(result)
        self._fail_pending("QEMU has ended")
        self._boots.put(False)

    def _fail_pending(self, why):
        with self._lock:
            pending, self._pending = self._pending, {}
        for future in pending.values():
            future.set_exception(RuntimeError(f"{self.name}: {why}"))

    def take_over(self, source):
        """The guest has migrated here: what runs in it will be answered through our own agent's connection."""
        with self._lock, source._lock:
            self._next_id = source._next_id
            self._pending, source._pending = source._pending, {}

    def wait_booted(self, timeout=180):
        try:
            if self._boots.get(timeout=timeout):
                return self
        except queue.Empty:
            raise TimeoutError(f"{self.name}: not booted within {timeout} s{self.logs()}") from None
        raise RuntimeError(f"{self.name}: QEMU ended{self.logs()}")

    def spawn(self, command):
        """Starts command by the guest's sh; a future of its Result."""
        future = concurrent.futures.Future()
        with self._lock:
            self._next_id += 1
            self._pending[self._next_id] = future
            self._agent.sendall(f"{self._next_id} {command}\n".encode())
        return future

    def run(self, command, timeout=30, check=True):
        result = self.spawn(command).result(timeout)
        if check and result.status != 0:
            raise RuntimeError(f"{self.name}: {command}: exit status {result.status}: {result.output.strip()}")
        return result.output

    def carrier_changes(self, interface="eth0"):
        return int(self.run(f"cat /sys/class/net/{interface}/carrier_changes", timeout=300))

    def carrier(self):
        return self.run("cat /sys/class/net/eth0/carrier").strip() == "1"

    def rx_queues_seen(self):
        """How many receive queues have had packets; needs no tool in the guest: one interrupt line per queue."""
        lines = self.run("grep -- '-input' /proc/interrupts").splitlines()
        return sum(any(int(n) > 0 for n in line.split()[1:] if n.isdigit()) for line in lines)

    # --- QEMU itself

    def qmp(self, command, **arguments):
        if self._qmp_file is None:
            self._qmp_file = self._qmp.makefile("rb")
            self._qmp_file.readline()  # greeting
            self.qmp("qmp_capabilities")
        self._qmp.sendall(json.dumps({"execute": command, "arguments": arguments}).encode() + b"\n")
        while True:
            answer = self._read_qmp()
            if "error" in answer:
                raise RuntimeError(f"{self.name}: {command}: {answer['error']['desc']}")
            if "return" in answer:
                return answer["return"]

    def _read_qmp(self, timeout=120):
        """The next answer; events are kept for wait_event."""
        self._qmp.settimeout(timeout)
        line = self._qmp_file.readline()
        if not line:
            raise RuntimeError(f"{self.name}: QEMU ended{self.logs()}")
        said = json.loads(line)
        if "event" in said:
            self._events.append(said)
        return said

    def wait_event(self, name, timeout=60, accept=lambda data: True):
        """QEMU's next event of that name, those that have come unseen included; the time (time.time()) it happened."""
        deadline = time.monotonic() + timeout
        while True:
            while self._events:
                event = self._events.pop(0)
                if event["event"] == name and accept(event.get("data", {})):
                    self.event_data = event.get("data", {})
                    return event["timestamp"]["seconds"] + event["timestamp"]["microseconds"] / 1e6
            if time.monotonic() > deadline:
                raise TimeoutError(f"{self.name}: no {name} within {timeout} s{self.logs()}")
            self._read_qmp(max(0.1, deadline - time.monotonic()))

    def tell_migration(self):
        """Each step of a migration from now on is an event; those of the one before, by which it came here, are forgotten."""
        self.qmp("migrate-set-capabilities", capabilities=[{"capability": "events", "state": True}])
        self._events.clear()

    def allow_postcopy(self, allow=True):
        """Before the migration, at both its ends alike."""
        self.qmp("migrate-set-capabilities", capabilities=[{"capability": "postcopy-ram", "state": allow}])

    def wait_migration(self, *statuses, timeout=60):
        """Until the migration from or to here is in one of these (QEMU's names); which."""
        self.wait_event("MIGRATION", timeout, lambda data: data["status"] in statuses)
        return self.event_data["status"]

    def reset(self, timeout=60):
        """The reset button; returns when the guest is up again."""
        self.qmp("system_reset")
        return self.wait_booted(timeout)

    def memory(self):
        """The guest's memory, a file to be read; for as long as it does not run."""
        folder = pathlib.Path(f"/proc/{self.process.pid}/fd")
        return open(next(fd for fd in folder.iterdir() if os.readlink(fd).startswith("/memfd:memory-backend")), "rb")

    def stop(self):
        self.process.kill()
        self._reader.join(5)
        self._agent.close()
        self._qmp.close()
        for path in (self.console_socket,):
            path.unlink(missing_ok=True)

    def logs(self):
        text = ""
        if os.path.exists(self.console_log):
            lines = self.console_log.read_text(errors="replace").splitlines()[-30:]
            text = f"\n--- {self.console_log}\n" + "\n".join(lines)
        return self.process.log_tail() + text
