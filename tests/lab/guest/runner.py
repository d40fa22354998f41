"""In the VM: runs the tests that the host names, one after the other, and sends their output and exit status back."""

import os
import pathlib
import signal
import subprocess
import sys
import threading
import time

TESTS = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(TESTS))

from e2e.lib.process import wait_until
from lab.lib import restore
from lab.lib.ports import JsonLines, open_port


class Cgroup:
    """All that a test starts, daemons too."""

    def __init__(self, name):
        own = pathlib.Path("/proc/self/cgroup").read_text().split("::")[1].strip()
        self.path = pathlib.Path("/sys/fs/cgroup") / own.lstrip("/") / name
        self.path.mkdir(exist_ok=True)

    def enter(self):
        (self.path / "cgroup.procs").write_text(str(os.getpid()))

    def clear(self):
        """Kills what is left, waits until it is gone, which unmaps devices; returns the names."""
        names = []
        for pid in (self.path / "cgroup.procs").read_text().split():
            try:
                names.append(pathlib.Path(f"/proc/{pid}/comm").read_text().strip())
            except OSError:
                pass  # it has just ended
        (self.path / "cgroup.kill").write_text("1")
        wait_until(lambda: "populated 0" in (self.path / "cgroup.events").read_text(), 60, f"{names} end")
        self.path.rmdir()
        return names


def command_of(path):
    if path.suffix == ".py":
        return ["/usr/bin/python3", "-B", "-m", "pytest", "-q", "-s", "--tb=short", "-p", "no:cacheprovider",
                f"--rootdir={path.parent}", str(path)]
    return ["/bin/bash", str(path)]


def tidy_up(cgroup):
    """Lines that say what a test has left behind; it is gone, or the next test will say so."""
    lines = []
    try:
        left = cgroup.clear()
        lines += [f"lab: left running, now killed: {' '.join(left)}"] if left else []
    except (OSError, TimeoutError) as error:
        lines.append(f"lab: {error}")
    return lines + [f"lab: left behind, now put back: {line}" for line in restore.restore()]


def run(request, host):
    name, path = request["run"], TESTS / "lab/tests" / request["file"]
    results = pathlib.Path("/results") / name
    results.mkdir(exist_ok=True)
    cgroup = Cgroup(f"lab-{name}")
    environment = {**os.environ, **request["settings"], "LAB_RESULTS": str(results), "PYTHONPATH": str(TESTS), "PYTHONUNBUFFERED": "1"}
    start = time.monotonic()
    test = subprocess.Popen(command_of(path), cwd="/tmp", env=environment, stdin=subprocess.DEVNULL,
                            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, preexec_fn=cgroup.enter)

    def forward():
        for line in test.stdout:
            host.send({"line": line.decode(errors="replace").rstrip("\r\n")})

    forwarder = threading.Thread(target=forward)
    forwarder.start()
    try:
        status = test.wait(request["timeout"])
    except subprocess.TimeoutExpired:
        test.send_signal(signal.SIGINT)  # pytest says where it stood
        try:
            test.wait(10)
        except subprocess.TimeoutExpired:
            pass
        status = 124
    for line in tidy_up(cgroup):
        host.send({"line": line})
    forwarder.join()
    host.send({"status": status, "seconds": time.monotonic() - start})


def shell(size):
    """A shell on the virtconsole, with job control; returns when it has ended."""
    with open("/dev/hvc0", "r+b", buffering=0) as terminal:
        subprocess.run(["stty", "cols", str(size["columns"]), "rows", str(size["rows"])], stdin=terminal, check=False)
        subprocess.run(["setsid", "--ctty", "--wait", "bash"], cwd="/src/tests/lab", stdin=terminal, stdout=terminal, stderr=terminal,
                       env={**os.environ, "PYTHONPATH": str(TESTS), "LAB_RESULTS": "/results"}, check=False)


def see_timers_tick():
    """An emulated CPU loses its timer at boot now and then: this then never ends, and the host boots another VM."""
    cpus = os.sched_getaffinity(0)
    for cpu in cpus:
        os.sched_setaffinity(0, {cpu})
        time.sleep(0.05)
    os.sched_setaffinity(0, cpus)


def main():
    see_timers_tick()
    with open_port("lab.run", timeout=30) as stream:
        host = JsonLines(stream)
        host.send({"ready": True})
        while request := host.receive():
            if "shell" in request:
                shell(request["shell"])
                host.send({"ended": True})
            else:
                run(request, host)


main()
