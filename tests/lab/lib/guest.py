"""A real guest in the VM: the VM's own kernel, with the end-to-end tests' init and agent (e2e/lib/guest.py).

Under the VM's own /dev/kvm, which TCG's SVM makes possible, it boots in well under a minute; TCG in TCG takes three times that.
"""

import lzma
import pathlib
import shutil
import subprocess

from .everport import BUILD

_MODULES = ("net/core/failover", "drivers/net/net_failover", "drivers/net/virtio_net")
_SOURCES = pathlib.Path(__file__).resolve().parents[2]


# A guest that is up already: Guest(SAVED_FILES, …, incoming=SAVED_STATE, **SAVED). Saved before the run (host/boot_guest.py),
# with the first VF's address.
SAVED_FILES = BUILD / "saved_guest"
SAVED_STATE = f"file:{SAVED_FILES}/state"
SAVED = {"mac": "52:54:00:1a:bf:00", "address": "10.77.0.2/24", "memory_mb": 112,
         "kernel_options": "mitigations=off nokaslr tsc=reliable audit=0 nowatchdog",
         "qemu_options": ["-icount", "shift=6"]}
SAVED_CONTRACT = "minimal-1"  # which a VDUSE device covers
PEER, PEER_MAC = "10.77.0.1", "52:54:00:1a:b2:00"  # it knows them, and asks nobody: it only answers


def saved_carrier_changes():
    return int((SAVED_FILES / "carrier_changes").read_text())


def guest_files(folder, kvm=True):
    """What e2e.lib.guest.Guest wants, made in this folder."""
    stage = folder / "stage"
    for name in ("bin", "modules", "dev"):
        (stage / name).mkdir(parents=True)
    for program in ("/usr/bin/busybox", BUILD / "guest_tools/everport-agent", BUILD / "guest_tools/everport-flow"):
        shutil.copy(program, stage / "bin")
    shutil.copy(_SOURCES / "e2e/guest_tools/init", stage / "init")
    kernel_modules = next(pathlib.Path("/usr/lib/modules").iterdir()) / "kernel"
    for module in _MODULES:
        data = lzma.decompress((kernel_modules / f"{module}.ko.xz").read_bytes())
        (stage / "modules" / f"{pathlib.Path(module).name}.ko").write_bytes(data)
    subprocess.run(["mknod", "-m", "600", stage / "dev/console", "c", "5", "1"], check=True)
    subprocess.run("chmod 755 init bin/* && find . | cpio --quiet -o -H newc > ../initramfs", shell=True, cwd=stage, check=True)
    shutil.rmtree(stage)
    (folder / "vmlinuz").symlink_to(next(pathlib.Path("/boot").glob("vmlinuz-*")))
    (folder / "qemu").symlink_to("/usr/bin/qemu-system-x86_64")
    kvm = kvm and subprocess.run(["modprobe", "kvm_amd"], check=False).returncode == 0 and pathlib.Path("/dev/kvm").exists()
    (folder / "accel").write_text("kvm" if kvm else "tcg,thread=single")
    return folder
