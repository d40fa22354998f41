"""everportctl migrate between two hosts with a libvirtd each: the guest moves and its traffic goes on; and whatever goes wrong,
the guest runs on at the source with its network, and the destination is as it was.
"""

import dataclasses
import json
import os
import signal
import subprocess
import time

import pytest

from lib.certificates import Ca
from lib.libvirt_hosts import DOMAIN, LibvirtHosts
from lib.migration import mac_of
from lib.process import wait_until
from lib.stage import build_dir

MIGRATIONS = int(os.environ.get("EVERPORT_LIBVIRT_MIGRATIONS", "4"))
NOTHING = {"ports": [], "domains": [], "sockets": []}
GUEST = {"ports": [DOMAIN], "domains": [DOMAIN], "sockets": ["vm1.sock"]}
SLOW = ("--bandwidth", "8")  # MiB/s: some 10 s for the guest's memory, to have a middle


@pytest.fixture(scope="module")
def stage(libvirt_guest_files):
    """One guest for all tests; each leaves it with its network."""
    with LibvirtHosts("virt", libvirt_guest_files) as hosts:
        yield hosts.start()


@pytest.fixture
def hosts(stage):
    """A guest that is reached, at a source, and a destination with nothing on it; the same afterwards."""
    pings = stage.pinger()
    pings.wait_reply(0, 20)
    changes = stage.guest.carrier_changes()
    assert (stage.traces(stage.source), stage.traces(stage.target)) == (GUEST, NOTHING)
    yield stage
    pings.wait_reply(time.monotonic() + 0.05, 20)
    pings.stop()
    assert pings.duplicates == 0
    assert stage.guest.carrier_changes() == changes
    # A QEMU that libvirt has let go of takes its socket away a moment later.
    wait_until(lambda: stage.traces(stage.target) == NOTHING, 20, f"{stage.target.net.name} is clean", interval=0.2)
    assert stage.traces(stage.source) == GUEST


def refused(hosts, *words, timeout=180, **where):
    """A migration that fails, with these words on its one line of error; what it said."""
    migration = hosts.begin(**where)
    assert migration.finish(timeout) == 1, migration.lines
    print("\n" + migration.error)
    for word in words:
        assert word in migration.error, migration.error
    return migration


def test_there_and_back(hosts):
    flow, receiver = hosts.flow_to_guest(3600)
    flow.wait_progress(0, 20)
    pings = hosts.pinger()
    pings.wait_reply(0, 20)
    table = []
    for _ in range(MIGRATIONS):
        result = hosts.move()
        assert (result["status"], result["guest"], result["left"]) == ("completed", "destination", [])
        port = result["ports"][0]
        assert port["compatible"] and port["created"] and port["removed"] and port["state"] == "running"
        assert port["frames"] > 0
        assert (hosts.traces(hosts.source), hosts.traces(hosts.target)) == (GUEST, NOTHING)
        flow.wait_progress(pings.wait_reply(time.monotonic() + 0.05, 20) + 0.5, 20)
        table.append((result["downtime_ms"], result["total_ms"] / 1000, result["transferred_bytes"] / 1e6))
    sent = flow.finish()
    assert sent["ok"] and json.loads(receiver.result(40).output)["ok"], sent
    pings.stop()
    print(f"\n{MIGRATIONS} migrations by everportctl and libvirt, under TCP and pings each 10 ms\n"
          "  downtime ms   total s   MB sent")
    for downtime, total, megabytes in table:
        print(f"{downtime:13.0f} {total:9.1f} {megabytes:9.0f}")
    print(f"{pings.lost} of {pings.sent} pings lost; {sent['bytes'] / 1e6:.0f} MB of TCP, every byte as sent, "
          f"longest stall {sent['longest_stall_ms']:.0f} ms")


def test_over_tls(hosts):
    """The destination's daemon is asked over the network, as from one host to another."""
    for _ in range(2):
        result = hosts.move(tls=hosts.source.certificate, dest_api=hosts.target.backend.url)
        assert (result["status"], result["guest"], result["left"]) == ("completed", "destination", [])
        assert result["ports"][0]["created"] and result["ports"][0]["removed"]


def test_over_tls_with_a_wrong_certificate(hosts):
    """Known before anything is touched, and said by whose fault."""
    url = hosts.target.backend.url
    expired = hosts.ca.issue("expired", hosts.source.address, days=0)
    other = Ca(hosts.work / "other-ca", "another CA").issue("stranger", hosts.source.address)
    unknown = dataclasses.replace(other, ca=hosts.ca.file)
    wait_until(lambda: not expired.lasts(), 10, "its last second is over")
    refused(hosts, "the destination's daemon", "expired", dest_api=url, tls=expired)
    refused(hosts, "the destination's daemon", url, "--ca", dest_api=url, tls=other)  # that CA is not the daemon's
    refused(hosts, "the destination's daemon", url, "is not in the server's [daemon.listen] ca", dest_api=url, tls=unknown)
    refused(hosts, "--cert: ", "cannot be read", dest_api=url, tls=dataclasses.replace(expired, file=hosts.work / "none.crt"))


def test_the_destinations_daemon_hangs_before(hosts):
    victim = hosts.target.backend.everport.daemon
    victim.signal(signal.SIGSTOP)
    try:
        refused(hosts, "the destination's daemon", "api.sock", options=("--timeout", "5"))
    finally:
        victim.signal(signal.SIGCONT)


def test_the_destinations_daemon_hangs_in_the_middle(hosts):
    """What it was asked last it may do, or not, when it goes on: its port is named with what takes it away."""
    victim = hosts.target.backend.everport
    migration = hosts.begin("--bandwidth", "2", "--timeout", "5")
    migration.wait_sending()
    victim.daemon.signal(signal.SIGSTOP)
    try:
        assert migration.finish() == 1, migration.lines
    finally:
        victim.daemon.signal(signal.SIGCONT)
    print("\n" + migration.error)
    assert "the guest runs on at the source" in migration.error
    assert f"left behind: port vm1 at {victim.run_dir}/api.sock, take it away with" in migration.error
    victim.ctl("port", "remove", DOMAIN, check=False)


def test_dry_run(hosts):
    migration = hosts.begin("--dry-run")
    assert migration.finish() == 0, migration.error
    text = "\n".join(migration.lines)
    assert f"would make port {DOMAIN} on {hosts.target.work}/vm1.sock with tap:ep-vm1" in text
    assert "port vm1: contract fits" in text
    assert [line.split()[0] for line in migration.lines[:9]] == [
        "domain", "match", "destination", "contract", "plan", "create", "migrate", "confirm", "remove"]


def test_cancelled_after_a_time(hosts):
    migration = hosts.begin(*SLOW, "--cancel-after", "2")
    assert migration.finish() == 1
    assert "cancelled; rolled back: port vm1 at" in migration.error
    assert migration.error.endswith("the guest runs on at the source")
    assert any(" left, " in line for line in migration.lines)


def test_interrupted(hosts):
    migration = hosts.begin(*SLOW)
    migration.wait_sending()
    migration.process.signal(signal.SIGINT)
    assert migration.finish() == 1
    assert "cancelled; rolled back: port vm1 at" in migration.error


def test_interrupted_twice(hosts):
    """The second time it is left as it is: what it then says takes all of it away."""
    migration = hosts.begin(*SLOW)
    migration.wait_sending()
    hosts.source.virt.pause()  # so that the first does not come to its end
    try:
        migration.process.signal(signal.SIGINT)
        wait_until(lambda: "cancelling" in migration.process.log_path.read_text(), 20, "the first signal is heard")
        migration.process.signal(signal.SIGINT)
        assert migration.finish() == 1
    finally:
        hosts.source.virt.resume()
    assert "ended by a second signal; the migration may go on by itself" in migration.error
    assert "domjobabort vm1`" in migration.error and "; left behind: port vm1 at" in migration.error
    assert "`virsh -c" in migration.error and "destroy vm1`" in migration.error
    hosts.source.virt.virsh("domjobabort", DOMAIN, check=False)  # refused if the first signal's has been heard after all
    wait_until(lambda: hosts.target.virt.domains() == [], 30, "the domain at the destination is gone", interval=0.2)
    hosts.target.backend.everport.ctl("port", "remove", "vm1")


@pytest.mark.parametrize("side", ["source", "destination"])
def test_a_daemon_killed_in_the_middle(hosts, side):
    victim = (hosts.source if side == "source" else hosts.target).backend.everport
    migration = hosts.begin(*SLOW)
    migration.wait_sending()
    victim.kill_daemon()
    victim.start_daemon()
    assert migration.finish() == 0, migration.error
    hosts.arrive()


def test_a_daemon_killed_and_the_migration_cancelled(hosts):
    """The rollback waits for the daemon that its service manager starts anew."""
    migration = hosts.begin(*SLOW)
    migration.wait_sending()
    hosts.target.backend.everport.kill_daemon()
    migration.process.signal(signal.SIGINT)
    hosts.target.backend.everport.start_daemon()
    assert migration.finish() == 1
    assert "cancelled; rolled back: port vm1 at" in migration.error


def test_a_daemon_killed_for_good(hosts):
    """Where no daemon is the guest does not go, though all would be sent before it is given up; what cannot be taken away
    there is named with its command."""
    victim = hosts.target.backend.everport
    migration = hosts.begin(*SLOW)
    migration.wait_sending()
    victim.kill_daemon()
    assert migration.finish() == 1
    victim.start_daemon()
    print("\n" + migration.error)
    assert "the destination's daemon has gone meanwhile" in migration.error
    assert any("slowed down" in line for line in migration.lines)
    command = f"everportctl --api {victim.run_dir}/api.sock port remove vm1"
    assert f"left behind: port vm1 at {victim.run_dir}/api.sock, take it away with `{command}`" in migration.error
    subprocess.run([build_dir() / "bin" / command.split()[0], *command.split()[1:]], check=True)


def test_the_destinations_libvirt_stops_before(hosts):
    hosts.target.virt.pause()
    try:
        refused(hosts, hosts.target.virt.uri, "no answer within 5s; is its libvirtd running", options=("--timeout", "5"))
    finally:
        hosts.target.virt.resume()


def test_the_destinations_libvirt_is_not_there(hosts):
    refused(hosts, "nowhere.sock", "No such file or directory", "is its libvirtd running",
            to="qemu+unix:///system?socket=/nowhere.sock")


def test_the_destinations_libvirt_stops_in_the_middle(hosts):
    migration = hosts.begin(*SLOW, "--timeout", "5")
    migration.wait_sending()
    hosts.target.virt.pause()
    try:
        assert migration.finish() == 1, migration.lines
    finally:
        hosts.target.virt.resume()
    print("\n" + migration.error)
    assert "the guest runs on at the source" in migration.error
    # It cleans up by itself once it hears that its client has gone.
    wait_until(lambda: hosts.traces(hosts.target) == NOTHING, 60, "the destination is clean", interval=0.2)


def test_the_destinations_daemon_is_not_there(hosts):
    refused(hosts, "the destination's daemon: /nowhere.sock", dest_api="/nowhere.sock")


def test_the_sources_libvirt_is_not_there(hosts):
    refused(hosts, "nowhere.sock", "No such file or directory", options=(
        "--from", "qemu+unix:///system?socket=/nowhere.sock"))


def test_the_destination_is_the_source(hosts):
    refused(hosts, "is active at the destination", "is that another host than the source?", to=hosts.source.virt.uri)


def test_a_persistent_domain_is_defined_on_one_host(hosts):
    xml = hosts.work / "inactive.xml"
    xml.write_text(hosts.source.virt.virsh("dumpxml", "--inactive", DOMAIN))
    hosts.source.virt.virsh("define", xml)
    hosts.move()
    assert hosts.target.virt.domains() == []
    assert str(hosts.source.socket) in hosts.source.virt.virsh("dumpxml", "--inactive", DOMAIN)
    hosts.source.virt.virsh("undefine", DOMAIN)  # transient again


def test_unknown_domain(hosts):
    refused(hosts, "vm9: there is no such domain at", "list --all` lists those there are", domain="vm9")


def test_without_a_vhostuser_interface(hosts):
    hosts.create(hosts.source, name="plain", nic_socket=None, idle=True)
    try:
        refused(hosts, "plain: the domain has no vhostuser interface", domain="plain")
    finally:
        hosts.source.virt.virsh("destroy", "plain")


def test_without_shared_memory(hosts):
    """libvirt 11 does not even define such a domain; what everportctl says of an older libvirt's is in workflow_test.cc."""
    with pytest.raises(RuntimeError, match="requires shared memory"):
        hosts.create(hosts.source, name="private", nic_socket=hosts.source.work / "private.sock", shared=False, idle=True)


@pytest.mark.parametrize("contract", ["own-1", "only"])
def test_another_contract(hosts, contract):
    """own-1 is not the same on both hosts; only-N is on one alone."""
    name = f"{contract}-{hosts.at + 1}" if contract == "only" else contract
    hosts.add_port(hosts.source, "other", contract=name)
    hosts.create(hosts.source, name="other", nic_socket=hosts.source.work / "other.sock", idle=True)
    try:
        dry = hosts.begin("--dry-run", domain="other", json_output=True)
        assert dry.finish() == 1
        findings = dry.result["ports"][0]["findings"]
        assert any(finding["breaks"] and finding["why"] and finding["mend"] for finding in findings), findings
        migration = refused(hosts, "other: port other cannot live at", domain="other")
        assert all(finding["field"] in migration.error for finding in findings if finding["breaks"])
        assert hosts.source.virt.virsh("domstate", "other") == "running"
    finally:
        hosts.source.virt.virsh("destroy", "other")
        hosts.source.backend.everport.ctl("port", "remove", "other")


def test_another_port_of_that_name(hosts):
    hosts.add_port(hosts.target, mtu=1400)
    try:
        refused(hosts, "port vm1 at", "has mtu 1400 where 1500 is needed")
        assert [port["name"] for port in hosts.target.backend.everport.ctl("ports")] == [DOMAIN]
    finally:
        hosts.target.backend.everport.ctl("port", "remove", "vm1")


def test_a_port_that_stands_there(hosts):
    """It is used as it is, and stays when the migration fails."""
    hosts.add_port(hosts.target)
    migration = hosts.begin(*SLOW, "--cancel-after", "1")
    assert migration.finish() == 1
    assert [port["name"] for port in hosts.target.backend.everport.ctl("ports")] == [DOMAIN]
    result = hosts.move()
    assert not result["ports"][0]["created"]


def test_a_port_that_is_taken_away_in_the_middle(hosts):
    migration = hosts.begin(*SLOW)
    migration.wait_sending()
    hosts.target.backend.everport.ctl("port", "remove", DOMAIN)
    assert migration.finish() == 1
    assert "was taken away meanwhile; leave it there" in migration.error
    assert "the guest runs on at the source" in migration.error


def test_a_port_that_stands_there_without_an_uplink(hosts):
    there = hosts.target.backend.everport
    there.ctl("port", "add", DOMAIN, "--socket", str(hosts.target.work / "vm1.sock"), "--mac", mac_of(0),
              "--uplink", "tap:ep-vm1,bridge=nowhere")
    try:
        refused(hosts, "port vm1 at", "has no uplink that works", "bridge nowhere does not exist", "mend it there")
    finally:
        there.ctl("port", "remove", DOMAIN)


def test_an_uplink_that_does_not_work(hosts):
    refused(hosts, "does not work", "bridge nowhere does not exist", "rolled back: port vm1", options=(
        "--dest-uplink", "vm1=tap:ep-vm1,bridge=nowhere"))


def test_post_copy_where_the_port_does_not_offer_it(hosts):
    refused(hosts, f"port vm1 at {hosts.source.backend.everport.run_dir}/api.sock does not offer post-copy; give it postcopy = "
            "true", "migrate without --postcopy", options=("--postcopy",))


def test_post_copy(hosts):
    """To a port that is set up for it, as ever; from there on by post-copy, which must begin: the guest writes faster than its
    memory is sent."""
    hosts.add_port(hosts.target, DOMAIN, "--postcopy")
    assert not hosts.move()["ports"][0]["created"]
    hosts.guest.run("dd if=/dev/urandom of=/tmp/a bs=1M count=16")
    load = hosts.guest.spawn("while [ -e /tmp/a ]; do cp /tmp/a /tmp/b; done")
    flow, receiver = hosts.flow_to_guest(3600)
    flow.wait_progress(0, 20)
    pings = hosts.pinger()
    there = hosts.target.backend.everport
    result = hosts.move("--postcopy", "--bandwidth", "16")
    assert (result["status"], result["guest"], result["left"]) == ("completed", "destination", [])
    flow.wait_progress(pings.wait_reply(time.monotonic() + 0.05, 20) + 0.5, 20)
    wait_until(lambda: there.get("/v1/ports/vm1")["postcopy_progress"]["phase"] == "none", 20, "post-copy has ended")
    progress = there.get("/v1/ports/vm1")["postcopy_progress"]
    assert (progress["completed"], progress["broken_off"]) == (1, 0), progress
    said = [json.loads(line) for line in there.ctl_text("--json", "events", "--no-follow").stdout.splitlines()]
    told = [event["message"].partition(":")[0] for event in said if event["type"] == "migration"]
    assert told == ["the guest may arrive by post-copy", "the guest arrives by post-copy", "post-copy has ended"]
    assert 'everport_port_postcopy_arrivals_total{port="vm1",end="completed"} 1\n' in there.get("/metrics")
    hosts.guest.run("rm /tmp/a")
    load.result(20)
    pings.stop()
    sent = flow.finish()
    assert sent["ok"] and json.loads(receiver.result(40).output)["ok"], sent
    print(f"\nby post-copy: {progress['seconds']:.2f} s with pages missing; {pings.lost} of {pings.sent} pings lost; "
          f"{sent['bytes'] / 1e6:.0f} MB of TCP, every byte as sent, longest stall {sent['longest_stall_ms']:.0f} ms")
