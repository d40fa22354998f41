"""A guest's NIC is a composed SR-IOV device (QEMU 11.1): its VFs come and go, each on a port with an uplink of its own.

                 guest "sriov"                     everport
 namespace vf1   VF 1, split rings   --- port vf1 --- tap in br0 --- the host
 namespace vf2   VF 2, packed rings  --- port vf2 --- wire --- port peer --- guest "peer"
                 PF                  --- port pf  --- tap in br0 --- the host
"""

import contextlib
import json
import os
import time

from lib.everport import port_toml
from lib.guest import Guest
from lib.measure import median
from lib.process import wait_until
from lib.sriov import MACS, SriovGuest, socket_of
from lib.stage import Stage

ROUNDS = 20
DATAGRAMS_S = 0.2  # one each millisecond: a guest's ring has room for all of them, should the guest not run meanwhile
TCP_S = 0.25
VF1, VF2 = "10.79.0.2", "10.78.0.2"
HOST_TO_VF1, PEER = "10.79.0.1", "10.78.0.1"


def wire(name):
    return {"kind": "port", "device": name}


class SriovStage(Stage):
    """Keeper, daemon and both guests."""

    def __init__(self, purpose, files, uplinks):
        super().__init__(purpose, guest_files=files)
        self.everport.write_config(*self.ports(**uplinks))
        self.peer = None

    def tap(self, name):
        return {"kind": "tap", "device": f"ep-{name}", "bridge": self.net.bridge}

    def ports(self, **uplinks):
        """Configuration texts: each port on the uplink that is given for it, on a tap in the bridge if none is."""
        return [port_toml(name, socket_of(self.work, name), [uplinks.get(name) or self.tap(name)], mac=mac)
                for name, mac in {**MACS, "peer": "52:54:00:00:02:00"}.items()]

    def start(self):
        self.everport.start()
        self.guest = SriovGuest(self.files, self.work)
        self._closers.callback(self.guest.stop)
        self.peer = Guest(self.files, self.work, socket_of(self.work, "peer"), name="peer", address=f"{PEER}/24",
                          mac="52:54:00:00:02:00")
        self._closers.callback(self.peer.stop)
        self.guest.wait_booted()
        self.peer.wait_booted()
        self.wait_reachable()
        self.add_namespaces()
        return self

    def add_namespaces(self):
        for namespace in ("vf1", "vf2"):
            self.guest.add_namespace(namespace)

    def make_vfs(self, *places):
        """places: each VF's namespace and address."""
        for netdev, (namespace, address) in zip(self.guest.create_vfs(), places):
            self.guest.take_vf(netdev, namespace, f"{address}/24")

    def vf_links(self):
        """Carrier changes of both VFs, once they have their carrier."""
        def links():
            found = {**self.guest.links_in("vf1"), **self.guest.links_in("vf2")}
            return found if [carrier for carrier, _ in found.values()] == ["1", "1"] else None
        return wait_until(links, 5, "both VFs have their carrier")

    def reload(self, **uplinks):
        self.everport.reload(*self.ports(**uplinks))
        for name in MACS:
            wanted = uplinks.get(name) or self.tap(name)
            wait_until(lambda: self.everport.port(name)["path"]["kind"] == wanted["kind"], 5,
                       f"port {name} is on {wanted['kind']} {wanted['device']}")

    def states(self):
        return {port["name"]: port["state"] for port in self.everport.ctl("ports")}

    def wait_states(self, **expected):
        wait_until(lambda: expected.items() <= self.states().items(), 5, f"ports are {expected}")

    def drops(self):
        return {port["name"]: port["drops_by_cause"] for port in self.everport.ctl("ports")}

    def host_flow(self, *args):
        return self._flow(*args)

    def packets(self, name):
        port = self.everport.port(name)
        return port["rx_packets"], port["tx_packets"]


class End:
    """Where traffic begins or ends: the host, a guest, or a namespace of a guest."""

    def __init__(self, stage, address, guest=None, namespace=None):
        self.stage, self.address, self.guest, self.namespace = stage, address, guest, namespace

    def start(self, *args):
        """everport-flow there; a function that waits for its end and returns its JSON."""
        if self.guest is None:
            flow = self.stage.host_flow(*args)
            return lambda: flow.wait(40)
        command = "everport-flow " + " ".join(str(arg) for arg in args)
        if self.namespace:
            command = self.guest.within(self.namespace, command)
        reply = self.guest.spawn(command)

        def result():
            ended = reply.result(40)
            said = ended.output.splitlines()
            assert said and said[-1].startswith("{"), f"{self.address}: {command}: {ended.status}: {ended.output}"
            return json.loads(said[-1])
        return result


def exchange(one, other):
    """Numbered datagrams from one to the other and back, then TCP both ways, every byte compared; (datagrams, bytes)."""
    echo = other.start("echo", 5003)
    pinged = one.start("ping", other.address, 5003, DATAGRAMS_S, 1)()
    assert pinged["sent"] == DATAGRAMS_S * 1000
    assert (pinged["lost"], pinged["duplicated"], pinged["reordered"]) == (0, 0, 0), f"{pinged}; {one.stage.drops()}"
    assert echo()["echoed"] == pinged["sent"]
    octets = 0
    for port, sender, receiver in ((5001, one, other), (5002, other, one)):
        received = receiver.start("recv", port)
        sent = sender.start("send", receiver.address, port, TCP_S)()
        assert sent["ok"] and sent["bytes"] > 0, sent
        assert received()["ok"]
        octets += sent["bytes"]
    return pinged["sent"], octets


@contextlib.contextmanager
def carried_by(stage, *names):
    """Each of these ports has given its guest, and taken from it, the datagrams of an exchange."""
    before = [stage.packets(name) for name in names]
    yield
    for name, (rx, tx) in zip(names, before):
        now = stage.packets(name)
        assert min(now[0] - rx, now[1] - tx) >= DATAGRAMS_S * 1000, f"{name}: {(rx, tx)} -> {now}"


def report(way, sums):
    print(f"{way}: {sums[0]} datagrams each way, {sums[1] / 1e6:.1f} MB of TCP, all as sent")


def open_files(everport):
    return [len(os.listdir(f"/proc/{process.pid}/fd")) for process in (everport.keeper, everport.daemon)]


def complaints(path, harmless=(" info ",)):
    """The lines of a log, after the command itself, that are more than information."""
    return [line for line in path.read_text().splitlines()[1:] if not any(text in line for text in harmless)]


def wait_no_more_files(everport, before, number):
    """As few as before, once the API's last connection has closed."""
    def grown():
        return [now for now, then in zip(open_files(everport), before) if now > then]
    wait_until(lambda: not grown(), 2, f"round {number}: no more open files of keeper and daemon than {before}")


@contextlib.contextmanager
def undisturbed(stage):
    """The guests' other NICs notice nothing, and keeper, daemon and QEMU complain of nothing; none has been restarted."""
    everport = stage.everport
    processes = (everport.keeper, everport.daemon)
    changes = stage.guest.carrier_changes(), stage.peer.carrier_changes()
    pings = stage.pinger()
    pings.wait_reply(0, 10)
    yield
    assert pings.stop().lost == 0, f"the PF lost {pings.lost} of {pings.sent} pings"
    assert (stage.guest.carrier_changes(), stage.peer.carrier_changes()) == changes
    assert stage.guest.carrier() and stage.peer.carrier()
    assert all(process.alive() for process in processes)
    assert [port["name"] for port in everport.ctl("ports") if port["drops_by_cause"]["malformed"]] == []
    for process in processes:
        assert not complaints(process.log_path), process.name
    # QEMU says what it does not like about a vhost-user back-end.
    assert not complaints(stage.guest.process.log_path, ("info: ", "is deprecated")), stage.guest.process.log_tail()
    print(f"PF: {pings.sent} pings, none lost; carrier_changes of PF and peer as before")


def test_vfs_come_and_go_twenty_times(sriov_guest_files):
    with SriovStage("sriov", sriov_guest_files, {"vf2": wire("peer"), "peer": wire("vf2")}) as stage:
        stage.start()
        stage.net.ip("address", "add", f"{HOST_TO_VF1}/24", "dev", stage.net.bridge)
        host = End(stage, HOST_TO_VF1)
        peer = End(stage, PEER, stage.peer)
        vf1 = End(stage, VF1, stage.guest, "vf1")
        vf2 = End(stage, VF2, stage.guest, "vf2")

        print("\nround  created  traffic  destroyed (ms)   datagrams  TCP MB")
        rounds, files = [], None
        totals = [0, 0]
        with undisturbed(stage):
            for number in range(1, ROUNDS + 1):
                times = [time.monotonic()]
                stage.wait_states(pf="running", vf1="connected", vf2="connected", peer="running")
                stage.make_vfs(("vf1", VF1), ("vf2", VF2))
                stage.wait_states(pf="running", vf1="running", vf2="running", peer="running")
                times.append(time.monotonic())

                with carried_by(stage, "vf1", "vf2", "peer"):
                    sums = [sum(pair) for pair in zip(exchange(host, vf1), exchange(peer, vf2))]
                times.append(time.monotonic())

                stage.guest.destroy_vfs()
                assert stage.guest.netdevs_in("vf1") == stage.guest.netdevs_in("vf2") == []
                stage.wait_states(pf="running", vf1="connected", vf2="connected", peer="running")
                times.append(time.monotonic())
                took = [1000 * (b - a) for a, b in zip(times, times[1:])]
                print(f"{number:5} {took[0]:8.0f} {took[1]:8.0f} {took[2]:10.0f} {sums[0]:16} {sums[1] / 1e6:7.1f}")
                rounds.append(sum(took))
                # With the VFs' first round the guest's memory comes to their ports, and stays until QEMU goes.
                files = files or open_files(stage.everport)
                wait_no_more_files(stage.everport, files, number)
                totals = [sum(pair) for pair in zip(totals, sums)]
        print(f"{ROUNDS} rounds, median {median(rounds) / 1000:.1f} s, longest {max(rounds) / 1000:.1f} s; "
              f"{totals[0]} datagrams each way, none lost, doubled or out of order; {totals[1] / 1e6:.0f} MB of TCP, "
              f"every byte as sent; open files of keeper and daemon after the first round {files}, "
              f"after the last {open_files(stage.everport)}")


def test_vf_to_vf_and_chains(sriov_guest_files):
    with SriovStage("chain", sriov_guest_files, {"vf1": wire("vf2"), "vf2": wire("vf1")}) as stage:
        stage.start()
        guest = stage.guest
        vf1 = End(stage, "10.79.0.1", guest, "vf1")
        vf2 = End(stage, "10.79.0.2", guest, "vf2")
        stage.make_vfs(("vf1", vf1.address), ("vf2", vf2.address))
        links = stage.vf_links()
        with undisturbed(stage):
            with carried_by(stage, "vf1", "vf2"):
                report("guest -> VF 1 -> wire -> VF 2 -> guest", exchange(vf1, vf2))

            # The VFs' uplinks are others now: the guest does not notice.
            stage.reload()
            with carried_by(stage, "vf1", "vf2"):
                report("guest -> VF 1 -> tap, bridge, tap -> VF 2 -> guest", exchange(vf1, vf2))
            assert stage.vf_links() == links

            # The guest between two others forwards from VF to VF; its own PF is the far end.
            stage.reload(vf2=wire("peer"), peer=wire("vf2"))
            guest.destroy_vfs()
            stage.make_vfs(("vf1", "10.77.0.3"), ("vf1", VF2))
            guest.run(guest.within("vf1", "sysctl -w net.ipv4.ip_forward=1"))
            guest.run("ip route add 10.78.0.0/24 via 10.77.0.3")
            stage.peer.run(f"ip route add 10.77.0.0/24 via {VF2}")
            peer, pf = End(stage, PEER, stage.peer), End(stage, guest.address, guest)
            with carried_by(stage, "peer", "vf2", "vf1", "pf"):
                report("guest -> wire -> VF 2 -> forwarded -> VF 1 -> tap, bridge, tap -> guest", exchange(peer, pf))


def test_vfs_without_a_daemon_and_through_a_reset(sriov_guest_files):
    with SriovStage("keeper", sriov_guest_files, {"vf2": wire("peer"), "peer": wire("vf2")}) as stage:
        stage.start()
        stage.net.ip("address", "add", f"{HOST_TO_VF1}/24", "dev", stage.net.bridge)
        guest = stage.guest
        changes = guest.carrier_changes()

        def check_both():
            with carried_by(stage, "vf1", "vf2", "peer"):
                exchange(End(stage, HOST_TO_VF1), End(stage, VF1, guest, "vf1"))
                exchange(End(stage, PEER, stage.peer), End(stage, VF2, guest, "vf2"))

        # The keeper alone sees VFs go and come; the daemon then takes over sessions that it has never seen begin.
        stage.make_vfs(("vf1", VF1), ("vf2", VF2))
        stage.everport.kill_daemon()
        guest.destroy_vfs()
        stage.make_vfs(("vf1", VF1), ("vf2", VF2))
        links = stage.vf_links()
        stage.everport.start_daemon()
        check_both()
        assert stage.vf_links() == links
        assert guest.carrier_changes() == changes

        # A reset takes the VFs away without asking the guest.
        guest.reset()
        stage.add_namespaces()
        stage.wait_states(pf="running", vf1="connected", vf2="connected")
        stage.make_vfs(("vf1", VF1), ("vf2", VF2))
        check_both()

        guest.stop()
        stage.wait_states(pf="waiting", vf1="waiting", vf2="waiting", peer="running")
