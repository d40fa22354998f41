"""What a run needs, made or brought up to date: root, build, initramfs. Several runs may go on at the same time."""

import contextlib
import fcntl
import hashlib
import os
import pathlib
import shutil
import subprocess
import time

from e2e.lib.progress import step

HOST = pathlib.Path(__file__).resolve().parent
REPOSITORY = HOST.parents[2]
KEPT_LOGS = 10


def lab_dir():
    return pathlib.Path(os.environ.get("EVERPORT_CACHE", "/var/cache/everport")) / "lab"


def _run(script, *args):
    done = subprocess.run(["setpriv", "--pdeathsig", "KILL", HOST / script, *args], check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{script} failed; what it said is above")


def _lock(file, how, waits_for):
    """Says what it waits for, if it has to."""
    try:
        fcntl.flock(file, how | fcntl.LOCK_NB)
    except BlockingIOError:
        with step(f"lab: waiting for {waits_for}"):
            fcntl.flock(file, how)


def _lock_file(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    return open(path, "w")


@contextlib.contextmanager
def root():
    """The Debian root; nobody makes it anew while this is held."""
    lab = lab_dir()
    with _lock_file(lab / "root.lock") as lock:
        _lock(lock, fcntl.LOCK_SH, "another run that makes the root")
        if subprocess.run([HOST / "make-root", "--check", lab], check=False).returncode != 0:
            _lock(lock, fcntl.LOCK_EX, "runs that use the old root")
            _run("make-root", lab)
            _lock(lock, fcntl.LOCK_SH, "another run that makes the root")
        yield lab / "root"


def build(into):
    """Builds this source tree; into gets hard links to all of it, which a later build does not change."""
    lab = lab_dir()
    name = hashlib.sha256(str(REPOSITORY).encode()).hexdigest()[:8]
    folder = lab / "build" / name
    with _lock_file(folder.with_suffix(".lock")) as lock:
        _lock(lock, fcntl.LOCK_EX, "another run's build of the same sources")
        _run("build-in-root", lab, REPOSITORY, folder)
        subprocess.run(["cp", "--archive", "--link", folder, into], check=True)


def make_initramfs(root_dir, path):
    subprocess.run([HOST / "make-initramfs", root_dir, path], check=True)


def kernel(root_dir):
    return next((root_dir / "boot").glob("vmlinuz-*"))


@contextlib.contextmanager
def run_dir():
    """A folder for this run alone, on the file system of the build; gone afterwards."""
    runs = lab_dir() / "runs"
    runs.mkdir(parents=True, exist_ok=True)
    for stale in runs.iterdir():
        if not os.path.exists(f"/proc/{stale.name}"):
            shutil.rmtree(stale, ignore_errors=True)
    own = runs / str(os.getpid())
    own.mkdir()
    try:
        yield own
    finally:
        shutil.rmtree(own, ignore_errors=True)


def logs_dir():
    """A folder for this run's logs, which stay; those of the last few runs are kept."""
    logs = lab_dir() / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    for old in sorted(path for path in logs.iterdir() if not path.is_symlink())[:-KEPT_LOGS]:
        shutil.rmtree(old, ignore_errors=True)
    own = logs / f"{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}"
    own.mkdir()
    last = logs / f"last.{os.getpid()}"
    last.symlink_to(own.name)
    last.rename(logs / "last")
    return own
