# lab: timeout=600
"""A real guest that migrates between two hosts' daemons: from an SR-IOV VF to a vDPA device and back. It is on the same
network by both, and its traffic goes on."""

import contextlib
import ctypes
import pathlib
import socket
import struct
import subprocess
import time

import pytest

from e2e.lib.everport import Everport, port_toml
from e2e.lib.guest import Guest
from e2e.lib.measure import Pinger
from e2e.lib.migration import move
from e2e.lib.process import wait_until
from lab.lib import machine
from lab.lib.everport import BIN, BUILD
from lab.lib.guest import PEER, PEER_MAC, SAVED, SAVED_CONTRACT, SAVED_FILES, SAVED_STATE, saved_carrier_changes
from lab.lib.pci import by_mac
from lab.lib.sriov import Pf
from lab.lib.vduse import CountingDevice

HARDWARE = {"a": "vf", "b": "vhost-vdpa"}  # by host
MODE = {"vf": "relay", "tap": "relay", "vhost-vdpa": "offload"}
WHILE_LOGGED = {"vf": "vf", "vhost-vdpa": "tap"}  # what serves the guest while its memory is being sent
ADDRESS = SAVED["address"].split("/")[0]
CPU = {"a": 2, "b": 3}
PING_MS = 100  # the guest, emulated twice, answers some ten in a second at least
ANSWERS = 10
SLOWLY, AT_ONCE = 1 << 18, 1 << 30  # bytes a second; the guest has 64 MB
SO_ATTACH_FILTER, ETH_P_ALL = 26, 3  # asm-generic/socket.h, linux/if_ether.h
ANSWER_SECONDS = 120  # within which one comes, on any machine


def sh(*commands):
    for command in commands:
        subprocess.run(command, shell=True, check=True)


class Announcements:
    """Of the guest, that come to the network by an interface."""

    RARP = 0x8035

    def __init__(self, stack, interface, mac):
        self.address = bytes.fromhex(mac.replace(":", ""))
        self.socket = stack.enter_context(socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0))
        # Frames that a bridge takes are seen by sockets for all protocols alone. ldh [12]; jeq RARP; ret all; ret none
        code = struct.pack("=" + "HBBI" * 4, 0x28, 0, 0, 12, 0x15, 0, 1, self.RARP, 0x06, 0, 0, 0x40000, 0x06, 0, 0, 0)
        program = ctypes.create_string_buffer(code)
        self.socket.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, struct.pack("@HP", 4, ctypes.addressof(program)))
        self.socket.bind((interface, ETH_P_ALL))
        self.socket.setblocking(False)

    def take(self):
        """How many have come since this was asked before."""
        count = 0
        while True:
            try:
                frame, (_, _, kind, *_) = self.socket.recvfrom(2048)
            except BlockingIOError:
                return count
            count += kind != socket.PACKET_OUTGOING and frame[6:12] == self.address


class World:
    """Host a has a VF and a tap for the guest, host b a vDPA device and a tap. The other end of the VF's wire, the device's
    network side and both taps are in one bridge.

    Not another VF in the bridge: the emulated NIC gives a VF its own broadcasts back, and a bridge that hears a guest's
    announcement come back by the VF looks for the guest there.
    """

    def __init__(self, stack, work):
        self.work, self.stack, self.moves = work, stack, 0
        pf = stack.enter_context(Pf())
        (vf,) = pf.make_vfs(1)
        assert vf.mac == SAVED["mac"]
        device = stack.enter_context(CountingDevice("mig0", mode="tap:lab-vdpa"))
        pf.wait_carrier()
        wire = by_mac(machine.mac_of("nic1")).wait_interface()
        sh("ip link add br-lab type bridge", f"ip link set {wire} up master br-lab", "ip link set lab-vdpa up master br-lab",
           f"ip address add {PEER}/24 dev br-lab && ip link set br-lab up")
        stack.callback(sh, f"ip link del br-lab && ip link set {wire} down")
        # No ARP by either: the guest only answers, to what it has got. One that has got nothing since is found by the
        # announcements alone.
        sh(f"ip link set br-lab address {PEER_MAC}", f"ip neighbor replace {ADDRESS} lladdr {vf.mac} dev br-lab nud permanent")
        # Where the network sees the guest, by host and kind of path.
        self.interface = {("a", "vf"): wire, ("b", "vhost-vdpa"): "lab-vdpa", ("a", "tap"): "lab-a", ("b", "tap"): "lab-b"}
        uplink = {"a": {"kind": "vf", "device": vf.address, "bind": True}, "b": {"kind": "vhost-vdpa", "device": device.node}}
        self.announcements = {host: Announcements(stack, self.interface[host, kind], vf.mac) for host, kind in HARDWARE.items()}
        self.everport, self.socket = {}, {}
        for host in HARDWARE:
            (work / host).mkdir()
            self.socket[host] = work / host / "vm.sock"
            self.everport[host] = Everport(BIN, work / host, pollers=[CPU[host]], idle={"max_sleep_us": 2000}).write_config(
                port_toml("vm", self.socket[host], [uplink[host], {"kind": "tap", "device": f"lab-{host}", "bridge": "br-lab"}],
                          mac=vf.mac, failback_delay_ms=500, contract=SAVED_CONTRACT))
            stack.callback(self.everport[host].stop)
        self.at = "a"
        self.everport["a"].start()
        self.guest = self.boot("a", SAVED_STATE)
        self.everport["b"].start()
        self.guest.wait_event("RESUME", 200)
        # Before that the bridge sends what is for the guest everywhere, and it lies in wait for the guest at host b.
        wait_until(lambda: f"{vf.mac} dev {wire} " in self.learnt(), 30, "the bridge has heard of the guest")
        self.pings = Pinger([], BUILD / "guest_tools/everport-flow", self.guest.address, work, interval_ms=PING_MS)
        stack.callback(self.pings.close)

    def boot(self, host, incoming):
        guest = Guest(SAVED_FILES, self.work / host, self.socket[host], name=f"guest{self.moves}", incoming=incoming, **SAVED)
        self.stack.callback(guest.stop)
        return guest

    @staticmethod
    def learnt():
        return subprocess.run(["bridge", "fdb", "show", "br", "br-lab"], stdout=subprocess.PIPE, text=True, check=True).stdout

    def port(self):
        return self.everport[self.at].get("/v1/ports/vm")

    def seen(self):
        """Frames that have come to the network, by host and kind of path."""
        def count(interface):
            try:
                return int(pathlib.Path(f"/sys/class/net/{interface}/statistics/rx_packets").read_text())
            except FileNotFoundError:  # its daemon has not made it yet
                return 0

        return {place: count(interface) for place, interface in self.interface.items()}

    def wait_answers(self, kind):
        """The guest is served by that and by nothing else, and answers by it; the time of an answer.

        Tried until it is so for once: where the machine gives the device's process no CPU, its port leaves it for a while.
        """
        wait_until(lambda: self.answers_by(kind), 60, f"host {self.at} serves the guest by {kind} alone", interval=0.1)
        return self.pings.wait_reply(time.monotonic(), ANSWER_SECONDS)

    def answers_by(self, kind):
        begin, before = self.port(), self.seen()
        if begin["path"]["kind"] != kind:
            return False

        def answered_or_left():
            return (self.seen()[self.at, kind] >= before[self.at, kind] + ANSWERS
                    or self.port()["path_switches"] != begin["path_switches"])

        wait_until(answered_or_left, 60, f"{ANSWERS} answers by {kind}", 0.2)
        elsewhere = {place: count - before[place] for place, count in self.seen().items() if place != (self.at, kind)}
        end = self.port()
        if end["path_switches"] != begin["path_switches"]:
            print(f"host {self.at} has left {kind} meanwhile", flush=True)
            return False
        assert end["path"]["kind"] == kind and end["path"]["mode"] == MODE[kind], end["path"]
        assert all(count < ANSWERS for count in elsewhere.values()), elsewhere
        return True

    def wait_hardware(self):
        return self.wait_answers(HARDWARE[self.at])

    def while_logged(self, _):
        self.wait_answers(WHILE_LOGGED[HARDWARE[self.at]])
        self.guest.qmp("migrate-set-parameters", **{"max-bandwidth": AT_ONCE})

    def migrate(self):
        self.moves += 1
        uri, target = f"unix:{self.work}/to{self.moves}", "b" if self.at == "a" else "a"
        arriving = self.boot(target, uri)
        self.guest.qmp("migrate-set-parameters", **{"max-bandwidth": SLOWLY, "downtime-limit": 1000})
        self.announcements[target].take()
        moved = move(self.guest, arriving, uri, before_switch=self.while_logged, timeout=300)
        assert moved.status == "completed", moved
        self.guest, self.at = arriving, target
        wait_until(self.announced, 30, f"the guest is announced by host {target}'s hardware")
        return moved

    def announced(self):
        """By the hardware of its host. A device is given 20 ms for it, which this machine may fail to give to the device."""
        return self.announcements[self.at].take() > 0 or self.everport[self.at].not_announced() > 0

    def logs(self):
        for host, everport in self.everport.items():
            print(f"--- host {host}\n{everport.ctl_text('events', '--no-follow', check=False).stdout}", flush=True)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    with contextlib.ExitStack() as stack:
        yield World(stack, tmp_path_factory.mktemp("mig"))


def test_from_a_vf_to_a_vdpa_device_and_back(world):
    offset = time.time() - time.monotonic()
    try:
        world.wait_hardware()
        for _ in HARDWARE:
            source, begun = HARDWARE[world.at], time.monotonic()
            moved = world.migrate()
            back = world.pings.wait_reply(moved.resumed - offset, ANSWER_SECONDS)
            settled = world.wait_hardware()
            print(f"{source} to {HARDWARE[world.at]}: downtime {moved.downtime_ms:.0f} ms of {moved.total_ms:.0f}; first answer "
                  f"{1000 * (back + offset - moved.resumed):.0f} ms after RESUME; longest gap "
                  f"{1000 * world.pings.gap(begun, settled):.0f} ms", flush=True)
        assert world.guest.carrier_changes() == saved_carrier_changes()
    finally:
        world.logs()
        for begin, end in world.pings.gaps(1):
            print(f"no answer from {time.strftime('%H:%M:%S', time.gmtime(begin + offset))} for {end - begin:.1f} s")
    world.pings.stop()
    print(f"{world.pings.lost} of {world.pings.sent} pings each {PING_MS} ms lost", flush=True)
    assert world.pings.duplicates == 0
