"""everport-keeper and everportd under test: started as a service manager would, with readiness by NOTIFY_SOCKET."""

import http.client
import json
import os
import pathlib
import signal
import socket
import subprocess
import time

from .process import Process


class Notify:
    """The service manager's end of sd_notify."""

    def __init__(self, path):
        self.path = pathlib.Path(path)
        self.path.unlink(missing_ok=True)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        self._socket.bind(str(path))

    def wait(self, assignment, process, timeout):
        """Until the process has said e.g. "READY=1"; an error with its log if it ends before."""
        deadline = time.monotonic() + timeout
        while True:
            if not process.alive():
                raise RuntimeError(f"{process.name} ended with status {process.wait(0)} before {assignment}"
                                   f"{process.log_tail()}")
            left = deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError(f"{process.name}: no {assignment} within {timeout} s{process.log_tail()}")
            self._socket.settimeout(min(left, 0.1))  # no longer, to see that it has ended
            try:
                if assignment in self._socket.recv(4096).decode().splitlines():
                    return
            except TimeoutError:
                pass

    def close(self):
        self._socket.close()
        self.path.unlink(missing_ok=True)


def port_toml(name, socket_path, uplinks, **keys):
    """One [[port]] with its uplinks (dicts)."""
    lines = ["[[port]]", f"name = {json.dumps(name)}", f"socket = {json.dumps(str(socket_path))}"]
    lines += [f"{key} = {json.dumps(value)}" for key, value in keys.items()]
    for uplink in uplinks:
        lines.append("[[port.uplink]]")
        lines += [f"{key} = {json.dumps(value)}" for key, value in uplink.items()]
    return "\n".join(lines) + "\n"


class Everport:
    """A keeper and a daemon with one configuration file, in a work folder, with a command prefix (a namespace)."""

    def __init__(self, bin_dir, work_dir, *, prefix=(), keeper=True, detach=False, **daemon_keys):
        self.bin = pathlib.Path(bin_dir)
        self.work = pathlib.Path(work_dir)
        self.prefix = list(prefix)
        self.uses_keeper = keeper
        self.detach = detach
        self.run_dir = self.work / "run"
        self.state_dir = self.work / "state"
        self.config = self.work / "everport.toml"
        for folder in (self.run_dir, self.state_dir):
            folder.mkdir(exist_ok=True)
        self._daemon_keys = {"run_dir": str(self.run_dir), "state_dir": str(self.state_dir), "keeper": keeper,
                             **daemon_keys}
        self.keeper = self.daemon = None
        self._notify = {}

    def write_config(self, *ports):
        """ports: texts of port_toml."""
        lines, tables = ["[daemon]"], []
        for key, value in self._daemon_keys.items():
            if isinstance(value, dict):
                tables += [f"[daemon.{key}]"] + [f"{k} = {json.dumps(v)}" for k, v in value.items()]
            else:
                lines.append(f"{key} = {json.dumps(value)}")
        self.config.write_text("\n".join(lines + tables) + "\n\n" + "\n".join(ports))
        return self

    def _start(self, program, timeout):
        if program not in self._notify:
            self._notify[program] = Notify(self.work / f"{program}.notify")
        notify = self._notify[program]
        process = Process([*self.prefix, self.bin / program, "--config", self.config], name=program,
                          log_path=self.work / f"{program}.log", env={"NOTIFY_SOCKET": str(notify.path)},
                          detach=self.detach)
        try:
            notify.wait("READY=1", process, timeout)
        except BaseException:
            process.kill()
            raise
        return process

    def start_keeper(self, timeout=60):
        self.keeper = self._start("everport-keeper", timeout)

    def start_daemon(self, timeout=120):
        self.daemon = self._start("everportd", timeout)

    def start(self):
        if self.uses_keeper:
            self.start_keeper()
        self.start_daemon()
        return self

    def kill_daemon(self):
        """SIGKILL; the time of the signal."""
        at = time.monotonic()
        self.daemon.kill()
        return at

    def reload(self, *ports, timeout=10):
        """SIGHUP with a new configuration; returns when the daemon says READY=1 again: it has applied or refused it."""
        self.write_config(*ports)
        self.daemon.signal(signal.SIGHUP)
        self._notify["everportd"].wait("READY=1", self.daemon, timeout)

    def ctl(self, *args, check=True):
        """everportctl with --json; what it said, parsed."""
        done = self.ctl_text("--json", *args, check=check)
        return json.loads(done.stdout) if done.stdout.strip() else None

    def ctl_text(self, *args, check=True):
        command = [str(self.bin / "everportctl"), "--api", str(self.run_dir / "api.sock"), *args]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        if check and done.returncode != 0:
            raise RuntimeError(f"{' '.join(command)}: exit status {done.returncode}: {done.stderr.strip()}"
                               f"{self.logs()}")
        return done

    def get(self, path):
        """The API itself; parsed JSON, or text where it is none."""
        return self._request("GET", path)

    def post(self, path, **body):
        return self._request("POST", path, json.dumps(body))

    def _request(self, method, path, body=None):
        connection = http.client.HTTPConnection("everport", timeout=60)
        connection.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.sock.settimeout(60)
        connection.sock.connect(str(self.run_dir / "api.sock"))
        try:
            connection.request(method, path, body)
            response = connection.getresponse()
            text = response.read().decode()
            if response.status != 200:
                raise RuntimeError(f"{method} {path}: {response.status}: {text}")
            return json.loads(text) if "json" in response.getheader("Content-Type", "") else text
        finally:
            connection.close()

    def port(self, name):
        """What everportctl --json ports says of one port."""
        return next(port for port in self.ctl("ports") if port["name"] == name)

    def startup(self):
        """How long the daemon's parts took at its last start: eal_ms, uplinks_ms, replay_ms, total_ms."""
        return self.get("/v1/health")["startup"]

    def not_announced(self):
        """How often the daemon has said that a device did not tell the network of a guest."""
        return pathlib.Path(self.daemon.log_path).read_text().count("the guest is not announced")

    def stop(self):
        for process in (self.daemon, self.keeper):
            if process:
                process.stop()
        for notify in self._notify.values():
            notify.close()
        self._notify = {}

    def logs(self):
        return "".join(p.log_tail() for p in (self.daemon, self.keeper) if p)


def memory_kib(pid, field="VmRSS"):
    for line in pathlib.Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1])
    raise RuntimeError(f"/proc/{pid}/status has no {field}")


def require_root():
    if os.geteuid() != 0:
        raise RuntimeError("this needs root: namespaces, tap devices")
