"""What ./quickstart does once everything is built; see there."""

import contextlib
import fcntl
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

from lib.everport import Everport, port_toml
from lib.guest import REPOSITORY, Guest, make_guest
from lib.measure import Flow, Pinger, gbit_per_s
from lib.netns import Namespace
from lib.process import wait_until
from lib.progress import step

NAMESPACE = "everport-quickstart"
WORK = pathlib.Path("/run/everport-quickstart")
LEFT = WORK / "left-running.json"  # pids, and when each process began
BUILD = REPOSITORY / "build/release"
FLOW = BUILD / "guest_tools/everport-flow"


def birth(pid):
    """When a process began, in the kernel's ticks: tells it from a later one with the same pid. None: there is none."""
    try:
        return pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[19]
    except OSError:
        return None


def remember(*processes):
    """For --stop, and for the next run if this one is killed."""
    LEFT.write_text(json.dumps([(p.pid, birth(p.pid)) for p in processes]))


def stop_what_was_left():
    if not WORK.exists():
        return False
    left = json.loads(LEFT.read_text()) if LEFT.exists() else []
    left = [(pid, began) for pid, began in left if birth(pid) == began]
    for pid, _ in left:
        os.kill(pid, signal.SIGTERM)
    for pid, began in left:
        try:
            wait_until(lambda: birth(pid) != began, 5, f"process {pid} ends")
        except TimeoutError:
            os.kill(pid, signal.SIGKILL)
    subprocess.run(["ip", "netns", "delete", NAMESPACE], stderr=subprocess.DEVNULL)
    shutil.rmtree(WORK, ignore_errors=True)
    return True


def kill_under_pings(everport, guest, net):
    """Pings at 10 ms; SIGKILL of the daemon in the middle, and a new one. What the table needs."""
    pings = Pinger(net.prefix(), FLOW, guest.address, WORK)
    try:
        start = pings.wait_reply(0, 10)
        before = guest.carrier_changes()
        killed = pings.wait_reply(start + 2, 10) and everport.kill_daemon()
        everport.start_daemon()
        back = pings.wait_reply(killed + 0.05, 20)
        pings.wait_reply(back + 2, 20)
        pings.stop()
    finally:
        pings.close()
    return {"sent": pings.sent, "lost": pings.lost, "gap_ms": pings.gap(killed, back) * 1000, "before": before,
            "after": guest.carrier_changes(), "startup": everport.startup()}


def throughput(guest, net, seconds=3):
    receiver = guest.spawn("everport-flow recv 5001")
    to_guest = Flow(net.prefix(), FLOW, ["send", guest.address, 5001, seconds], WORK).wait(60)
    receiver.result(10)
    receiving = Flow(net.prefix(), FLOW, ["recv", 5002], WORK)
    guest.spawn(f"everport-flow send {net.address} 5002 {seconds}").result(60)
    from_guest = receiving.wait(10)
    if not (to_guest["ok"] and from_guest["ok"]):
        raise RuntimeError(f"TCP arrived otherwise than it was sent: to the guest {to_guest}, from it {from_guest}")
    return gbit_per_s(to_guest), gbit_per_s(from_guest)


def print_table(seen, rates, accel):
    took = seen["startup"]
    rows = [
        ("pings sent, lost", f"{seen['sent']}, {seen['lost']}", "one every 10 ms; the daemon is killed in the middle"),
        ("longest gap", f"{seen['gap_ms']:.0f} ms", "without a reply; in it, the new daemon's start:"),
        ("  EAL", f"{took['eal_ms']:.0f} ms", "DPDK takes its memory and CPUs"),
        ("  uplinks", f"{took['uplinks_ms']:.0f} ms", "the tap is opened and put into its bridge"),
        ("  replay", f"{took['replay_ms']:.0f} ms", "the keeper hands the guest's session over, and its rings go on"),
        ("carrier_changes", f"{seen['before']} before, {seen['after']} after",
         "how often the guest has seen its link go or come"),
        ("TCP to the guest", f"{rates[0]:.2f} Gb/s", f"every byte as sent; the guest's CPU is emulated ({accel})"
         if accel == "tcg" else "every byte as sent"),
        ("TCP from the guest", f"{rates[1]:.2f} Gb/s", ""),
    ]
    widths = [max(len(row[i]) for row in rows) for i in range(2)]
    print()
    for what, value, note in rows:
        print(f"  {what:<{widths[0]}}  {value:<{widths[1]}}  {note}".rstrip())
    print()
    if seen["before"] == seen["after"]:
        print(f"Passed: the daemon was killed, and the guest's link stayed up; its pings went on after {seen['gap_ms']:.0f} "
              "ms.")
    else:
        print("Failed: the guest has seen its link go when the daemon was killed; run ./quickstart --keep, and look at "
              "the logs.")


def print_look_around(everport, guest):
    ctl = f"{BUILD}/bin/everportctl --api {everport.run_dir}/api.sock"
    print(f"""All is still running. To look around:
  {ctl} ports
  {ctl} top
  ip netns exec {NAMESPACE} ping {guest.address}
  socat -,raw,echo=0,escape=0x1d UNIX-CONNECT:{guest.console_socket}    the guest's console; Ctrl-] leaves it
  kill -9 {everport.daemon.pid}                      the daemon; bring it back with
  ip netns exec {NAMESPACE} {everport.daemon.args[-3]} --config {everport.config}
Logs and configuration: {WORK}
To end it: ./quickstart --stop
""")


def run(keep, undo):
    WORK.mkdir()
    undo.callback(shutil.rmtree, WORK, True)
    files = make_guest(BUILD / "guest_tools")
    net = Namespace("quickstart", name=NAMESPACE)
    undo.callback(net.close)
    nic = WORK / "vm1.sock"
    everport = Everport(BUILD / "bin", WORK, prefix=net.prefix(), detach=keep)
    undo.callback(everport.stop)
    everport.write_config(port_toml("vm1", nic, [{"kind": "tap", "device": "ep-vm1", "bridge": net.bridge}],
                                    mac="52:54:00:00:00:02"))
    with step("everport-keeper and everportd"):
        everport.start()
    if keep:
        remember(everport.daemon, everport.keeper)
    with step("booting the guest"):
        guest = Guest(files, WORK, nic, detach=keep)
        undo.callback(guest.stop)
        if keep:
            remember(guest.process, everport.daemon, everport.keeper)
        guest.wait_booted(120)
    with step("pinging it; the daemon is killed and comes back"):
        seen = kill_under_pings(everport, guest, net)
    with step("TCP to the guest, and from it"):
        rates = throughput(guest, net)
    print_table(seen, rates, guest.accel)
    if not keep:
        print("All of it is taken down again; ./quickstart --keep leaves it running, to look around.")
    if keep:
        remember(guest.process, everport.daemon, everport.keeper)
        print_look_around(everport, guest)
        undo.pop_all()  # nothing is undone
    return 0 if seen["before"] == seen["after"] else 1


def main(arguments):
    lock = open("/run/everport-quickstart.lock", "w")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        print("quickstart: another ./quickstart is at work; wait for it, or end it", file=sys.stderr)
        return 1
    if arguments == ["--stop"]:
        print("stopped" if stop_what_was_left() else "nothing is running")
        return 0
    if stop_what_was_left():
        print("  what an earlier run had left was stopped", file=sys.stderr)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    started = time.monotonic()
    try:
        with contextlib.ExitStack() as undo:
            status = run(arguments == ["--keep"], undo)
    except KeyboardInterrupt:
        print("quickstart: interrupted; all is cleaned up", file=sys.stderr)
        return 130
    except (RuntimeError, TimeoutError, OSError) as error:
        print(f"quickstart: {error}", file=sys.stderr)
        return 1
    print(f"  done in {time.monotonic() - started:.0f} s", file=sys.stderr)
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
