"""Boots the guest of lib/guest.py and saves it, for tests/migration.py: here its boot takes seconds, in the lab's VM minutes.

usage: boot_guest.py FOLDER      in the lab's root, with the build in /build. Does nothing if FOLDER is up to date.
Its NIC is served by a keeper without daemon: a guest needs no more to come up.
"""

import concurrent.futures
import hashlib
import pathlib
import shutil
import sys
import tempfile

from e2e.lib.everport import Everport, port_toml
from e2e.lib.guest import Guest
from lab.lib import guest as lab_guest
from lab.lib.everport import BIN, BUILD

BOOTS = 3  # as ../run: an emulated CPU loses a timer now and then, and a kernel waits for it for ever
TESTS = pathlib.Path(__file__).resolve().parents[2]


def key():
    """Of all that the saved guest is made of, and of QEMU, whose devices' state it holds."""
    parts = [__file__, lab_guest.__file__, TESTS / "e2e/lib/guest.py", TESTS / "e2e/guest_tools/init", BIN / "everport-keeper",
             BUILD / "guest_tools/everport-agent", BUILD / "guest_tools/everport-flow", "/.lab-key"]
    return hashlib.sha256(b"".join(hashlib.sha256(pathlib.Path(part).read_bytes()).digest() for part in parts)).hexdigest()


def save(folder):
    files = lab_guest.guest_files(folder, kvm=False)
    with tempfile.TemporaryDirectory() as name:
        work = pathlib.Path(name)
        socket = work / "vm.sock"
        everport = Everport(BIN, work).write_config(
            port_toml("vm", socket, [{"kind": "tap", "device": "unused"}], mac=lab_guest.SAVED["mac"],
                      contract=lab_guest.SAVED_CONTRACT))
        everport.start_keeper()
        guest = Guest(files, work, socket, **lab_guest.SAVED)
        try:
            guest.wait_booted(150)
            # A command takes half a minute in the lab's VM.
            guest.run(f"arp -s {lab_guest.PEER} {lab_guest.PEER_MAC}")
            (folder / "carrier_changes").write_text(str(guest.carrier_changes()))
            # Free pages that are all zeroes need not be moved.
            guest.run("free=$(sed -n 's/^MemFree: *\\([0-9]*\\) kB/\\1/p' /proc/meminfo); "
                      "dd if=/dev/zero of=/zeroes bs=1k count=$((free - 8192)); rm /zeroes", timeout=300)
            guest.tell_migration()
            guest.qmp("migrate", uri=f"file:{folder}/state")
            status = guest.wait_migration("completed", "failed", timeout=300)
            if status != "completed":
                raise RuntimeError(f"the guest is not saved: {status}{guest.logs()}")
        finally:
            guest.stop()
            everport.stop()


def main():
    folder = pathlib.Path(sys.argv[1])
    now = key()
    if (folder / "key").exists() and (folder / "key").read_text() == now:
        return
    new = folder.with_name(folder.name + ".new")  # there is a whole one, or none
    for boot in range(1, BOOTS + 1):
        shutil.rmtree(new, ignore_errors=True)
        new.mkdir(parents=True)
        try:
            save(new)
            break
        except (RuntimeError, TimeoutError, concurrent.futures.TimeoutError) as error:
            if boot == BOOTS:
                raise
            print(f"{error}\nboot {boot} of at most {BOOTS} failed; once more", flush=True)
    (new / "key").write_text(now)
    shutil.rmtree(folder, ignore_errors=True)
    new.rename(folder)


main()
