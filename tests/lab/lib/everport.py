"""everport as it was built for the lab."""

import pathlib
import subprocess

BUILD = pathlib.Path("/build")
BIN = BUILD / "bin"


def install():
    """cmake --install, into the VM's /usr. What it writes into the build folder stays in the VM."""
    upper = pathlib.Path("/var/tmp/lab-install")
    upper.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", upper], check=True)
    (upper / "data").mkdir()
    (upper / "work").mkdir()
    options = f"lowerdir={BUILD},upperdir={upper}/data,workdir={upper}/work"
    subprocess.run(["mount", "-t", "overlay", "-o", options, "overlay", BUILD], check=True)
    try:
        done = subprocess.run(["cmake", "--install", BUILD], capture_output=True, text=True)
    finally:
        subprocess.run(["umount", BUILD], check=True)
        subprocess.run(["umount", upper], check=True)
        upper.rmdir()
    if done.returncode != 0:
        raise RuntimeError(f"cmake --install: {done.stdout}{done.stderr}")
