"""[libvirt]: with a libvirtd on each of two hosts, and no port written down anywhere: ports come and go with the domains."""

import threading
import time

import pytest

from lib.everport import port_toml
from lib.libvirt_hosts import DOMAIN, LibvirtHosts, WatchingBackend, domain_xml
from lib.migration import mac_of
from lib.process import wait_until

ORIGIN = f"libvirt domain {DOMAIN}"
NOTHING = {"ports": [], "domains": [], "sockets": []}
GUEST = {"ports": [DOMAIN], "domains": [DOMAIN], "sockets": ["vm1.sock"]}


@pytest.fixture(scope="module")
def stage(libvirt_guest_files):
    """One guest for all tests, which run in their order: the last one ends it."""
    with LibvirtHosts("watch", libvirt_guest_files, WatchingBackend) as hosts:
        yield hosts.start()


@pytest.fixture
def hosts(stage):
    """A guest that is reached, whose link nothing changes."""
    pings = stage.pinger()
    pings.wait_reply(0, 20)
    changes = stage.guest.carrier_changes()
    yield stage
    pings.wait_reply(time.monotonic() + 0.05, 20)
    pings.stop()
    assert pings.duplicates == 0
    assert stage.guest.carrier_changes() == changes


def clean(hosts, host):
    """A QEMU that libvirt has let go of takes its socket away a moment later."""
    wait_until(lambda: hosts.traces(host) == NOTHING, 30, f"{host.net.name} is clean", interval=0.2)


def connections(everport):
    """How often it has reached libvirt."""
    return everport.ctl_text("events", "--no-follow").stdout.count(" connected to qemu")


def begin(work):
    thread = threading.Thread(target=work)
    thread.start()
    return thread


def test_a_domain_brings_its_port(hosts):
    """The guest has booted on it, and the fixture's pings came through it."""
    assert (hosts.traces(hosts.source), hosts.traces(hosts.target)) == (GUEST, NOTHING)
    port = hosts.source.backend.everport.port(DOMAIN)
    assert (port["origin"], port["state"]) == (ORIGIN, "running")
    health = hosts.source.backend.everport.get("/v1/health")
    assert health["libvirt"] == "connected", health
    metrics = hosts.source.backend.everport.get("/metrics")
    assert "everport_libvirt_connected 1" in metrics and "everport_libvirt_ports 1" in metrics


def test_a_killed_daemon_does_not_wait_for_libvirt(hosts):
    """libvirtd answers nobody meanwhile."""
    everport = hosts.source.backend.everport
    hosts.source.virt.pause()
    try:
        everport.kill_daemon()
        everport.start_daemon()
        pings = hosts.pinger()
        pings.wait_reply(time.monotonic(), 20)
        pings.stop()
        assert everport.port(DOMAIN)["origin"] == ORIGIN
        assert everport.get("/v1/health")["libvirt"] != "connected"
    finally:
        hosts.source.virt.resume()
    wait_until(lambda: everport.get("/v1/health")["libvirt"] == "connected", 60, "libvirt is reached", interval=0.2)
    assert everport.port(DOMAIN)["origin"] == ORIGIN


def test_a_libvirt_that_hangs_holds_up_nothing(hosts):
    """Neither reloads, nor the API, nor the daemon's end; what waits for it is left to itself."""
    backend, everport = hosts.source.backend, hosts.source.backend.everport
    sessions = everport.port(DOMAIN)["sessions"]
    hosts.source.virt.pause()
    try:
        for mtu in (1400, 1500):
            everport.reload(backend.table(mtu=mtu))
            assert everport.get("/v1/health")["libvirt"] == "not connected: not asked yet"
        assert (everport.port(DOMAIN)["origin"], everport.port(DOMAIN)["sessions"]) == (ORIGIN, sessions)
        assert everport.daemon.stop() == 0
        everport.start_daemon()
        pings = hosts.pinger()
        pings.wait_reply(time.monotonic(), 20)
        pings.stop()
    finally:
        hosts.source.virt.resume()
    wait_until(lambda: everport.get("/v1/health")["libvirt"] == "connected", 60, "libvirt is reached", interval=0.2)


def test_switched_off_and_on(hosts):
    """The port stays, and is the domain's."""
    backend, everport = hosts.source.backend, hosts.source.backend.everport
    sessions = everport.port(DOMAIN)["sessions"]
    everport.reload()
    assert everport.get("/v1/health")["libvirt"] == "off"
    assert everport.port(DOMAIN)["origin"] == ORIGIN
    everport.reload(backend.table())
    wait_until(lambda: everport.get("/v1/health")["libvirt"] == "connected", 60, "libvirt is reached", interval=0.2)
    port = everport.port(DOMAIN)
    assert (port["origin"], port["state"], port["sessions"]) == (ORIGIN, "running", sessions)


def test_a_guest_of_which_libvirt_knows_nothing_keeps_its_port(hosts):
    """libvirt's test driver has domains, but not this one. The daemon is killed meanwhile."""
    backend, everport = hosts.source.backend, hosts.source.backend.everport
    connected = lambda: everport.get("/v1/health")["libvirt"] == "connected"
    everport.reload(backend.table(uri="test:///default"))
    wait_until(connected, 20, "the test driver is reached")
    lingers = lambda: "it goes when no QEMU is connected" in everport.ctl_text("events", "--no-follow").stdout
    wait_until(lingers, 20, "it is said")
    everport.kill_daemon()
    everport.start_daemon()
    wait_until(lingers, 20, "it is said again")
    assert everport.port(DOMAIN)["origin"] == ORIGIN
    before = connections(everport)
    everport.reload(backend.table())
    wait_until(lambda: connections(everport) > before, 60, "libvirt is reached", interval=0.2)
    assert everport.port(DOMAIN)["origin"] == ORIGIN


def test_libvirt_is_restarted(hosts):
    everport = hosts.source.backend.everport
    before, sessions = connections(everport), everport.port(DOMAIN)["sessions"]
    hosts.source.virt.restart()
    wait_until(lambda: connections(everport) == before + 1, 90, "libvirt is reached again", interval=0.2)
    port = everport.port(DOMAIN)
    assert (port["origin"], port["state"], port["sessions"]) == (ORIGIN, "running", sessions)


def test_an_interface_that_gets_no_port(hosts):
    """Its domain waits in its start; it is said why, and nobody else is concerned."""
    host = hosts.source
    path, nic_socket = hosts.work / "odd.xml", host.work / "o d d.sock"
    path.write_text(domain_xml(nic_socket, name="odd one", idle=True))
    starting = begin(lambda: host.virt.virsh("create", path, check=False))
    try:
        wait_until(lambda: any("domain \"odd one\": interface" in problem and "is not a port name; use" in problem
                               for problem in host.backend.everport.get("/v1/health")["problems"]),
                   30, "it is a problem", interval=0.2)
        assert any("odd one" in finding["finding"] for finding in host.backend.everport.ctl("doctor", check=False))
    finally:
        host.virt.virsh("destroy", "odd one", check=False)  # it may be gone by the time that it is answered
        starting.join(90)
        nic_socket.unlink(missing_ok=True)  # a QEMU that is ended while it waits for its back-end leaves it behind
    wait_until(lambda: not any("odd" in problem for problem in host.backend.everport.get("/v1/health")["problems"]),
               10, "it is none any more", interval=0.2)  # a start that fails has no event


def test_virsh_migrates_it(hosts):
    """The other host's daemon makes the port for the QEMU that waits there; here it goes with the domain."""
    path = hosts.work / "there.xml"
    xml = hosts.source.virt.virsh("dumpxml", "--migratable", DOMAIN)
    path.write_text(xml.replace(str(hosts.source.socket), str(hosts.target.socket)))
    hosts.source.virt.virsh("migrate", "--live", "--p2p", "--xml", path, "--migrateuri", f"unix://{hosts.work}/to",
                            DOMAIN, hosts.target.virt.uri, timeout=180)
    hosts.arrive()
    clean(hosts, hosts.target)
    assert hosts.traces(hosts.source) == GUEST
    assert hosts.source.backend.everport.port(DOMAIN)["origin"] == ORIGIN


def test_everportctl_migrates_it(hosts):
    """The port that it makes is its own; the one that it removes was the domain's, and does not come again."""
    events = hosts.source.backend.everport
    result = hosts.move()
    assert result["ports"][0]["created"] and result["left"] == []
    clean(hosts, hosts.target)
    made = [line for line in events.ctl_text("events", "--no-follow").stdout.splitlines() if "made for domain" in line]
    assert len(made) == 1, made
    assert hosts.traces(hosts.source) == GUEST
    assert hosts.source.backend.everport.port(DOMAIN)["origin"] == "api"


def test_a_failed_migration_leaves_the_domains_port(hosts):
    migration = hosts.begin("--bandwidth", "8", "--cancel-after", "2")
    assert migration.finish() == 1
    clean(hosts, hosts.target)
    assert hosts.traces(hosts.source) == GUEST


def test_a_domain_that_ends_takes_its_port_along(stage):
    host = stage.source
    host.virt.virsh("destroy", DOMAIN)
    wait_until(lambda: host.backend.everport.port(DOMAIN)["state"] == "waiting", 20, "the guest has gone")
    host.backend.everport.ctl("port", "remove", DOMAIN)  # everportctl migrate has made it
    path = stage.work / "domain.xml"
    path.write_text(domain_xml(host.socket, idle=True))
    host.virt.virsh("create", path)
    port = host.backend.everport.port(DOMAIN)
    assert (port["origin"], port["state"] != "waiting") == (ORIGIN, True)
    host.virt.virsh("destroy", DOMAIN)
    clean(stage, host)
    assert f"{DOMAIN}.sock" not in "".join(path.name for path in (host.backend.everport.run_dir / "keeper").iterdir())


def test_a_port_of_the_file_becomes_the_domains(stage):
    """At once: nothing tells of it but the reload."""
    host, everport = stage.source, stage.source.backend.everport
    uplink = {"kind": "tap", "device": "ep-file", "bridge": host.net.bridge}
    everport.reload(host.backend.table(), port_toml("mine", host.socket, [uplink], mac=mac_of(0)))
    path = stage.work / "domain.xml"
    path.write_text(domain_xml(host.socket, idle=True))
    host.virt.virsh("create", path)
    assert [(port["name"], port["origin"]) for port in everport.ctl("ports")] == [("mine", "file")]
    everport.reload(host.backend.table())
    wait_until(lambda: [(port["name"], port["origin"], port["state"] != "waiting") for port in everport.ctl("ports")] ==
               [(DOMAIN, ORIGIN, True)], 5, "it is the domain's", interval=0.2)
    host.virt.virsh("destroy", DOMAIN)
    clean(stage, host)


def test_an_interface_is_attached(stage):
    """Its domain cannot be read until it has its port, which the operator adds when told."""
    host, everport, hot = stage.source, stage.source.backend.everport, stage.source.work / "hot.sock"
    path = stage.work / "domain.xml"
    path.write_text(domain_xml(host.socket, idle=True))
    host.virt.virsh("create", path)
    path.write_text(f"""<interface type='vhostuser'><mac address='{mac_of(1)}'/>
        <source type='unix' path='{hot}' mode='server'/><model type='virtio'/></interface>""")
    attaching = begin(lambda: host.virt.virsh("attach-device", DOMAIN, path, "--live"))
    told = f"{hot}: no domain is known to have it, and domain {DOMAIN} cannot be read"
    wait_until(lambda: told in everport.ctl_text("events", "--no-follow").stdout, 20, "it is said", interval=0.2)
    everport.ctl("port", "add", "hot", "--socket", str(hot), "--mac", mac_of(1), "--uplink", "tap:ep-hot")
    attaching.join(60)
    assert mac_of(1) in host.virt.virsh("domiflist", DOMAIN)
    origins = lambda: {port["name"]: port["origin"] for port in everport.ctl("ports")}
    assert origins() == {DOMAIN: ORIGIN, "hot": "api"}
    host.virt.virsh("destroy", DOMAIN)
    wait_until(lambda: origins() == {"hot": "api"}, 20, "the domain's port has gone", interval=0.2)
    everport.ctl("port", "remove", "hot")
    clean(stage, host)


def test_a_domain_that_libvirt_starts_by_itself(stage):
    """While libvirt starts it, it answers nobody: its port must be there before."""
    host, name = stage.source, "auto"
    path = stage.work / "auto.xml"
    path.write_text(domain_xml(host.work / f"{name}.sock", name=name, idle=True))
    host.virt.virsh("define", path)
    host.virt.virsh("autostart", name)
    path.write_text(host.virt.virsh("dumpxml", name))
    host.virt.virsh("define", path)  # of autostart alone there is no event
    ports = lambda: [port["name"] for port in host.backend.everport.ctl("ports")]
    wait_until(lambda: ports() == [name], 20, "it has a port before it runs", interval=0.2)
    (host.virt.work / "root/run/libvirt/qemu/autostarted").unlink(missing_ok=True)  # as if the host had just booted
    host.virt.restart()
    wait_until(lambda: host.virt.virsh("domstate", name, timeout=120) == "running", 60, "it runs", interval=0.2)
    assert host.backend.everport.port(name)["state"] != "waiting"
    host.virt.virsh("destroy", name)
    wait_until(lambda: host.backend.everport.port(name)["state"] == "waiting", 20, "it has gone")
    assert ports() == [name]
    host.virt.virsh("undefine", name)
    wait_until(lambda: ports() == [], 20, "its port has gone", interval=0.2)
