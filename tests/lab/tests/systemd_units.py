"""The installed units under a real systemd: they start, survive a kill, reload, and leave nothing behind.

The tests are one story in this order.
"""
# lab: systemd

import json
import os
import pathlib
import shutil
import subprocess

import pytest

from e2e.lib.process import wait_until
from lab.lib.everport import install

CONFIG = pathlib.Path("/etc/everport/everport.toml")
EXAMPLE = pathlib.Path("/usr/share/doc/everport/examples/everport.toml")
UNITS = ("everport-keeper", "everportd")


def run(*args, check=True):
    done = subprocess.run(args, capture_output=True, text=True)
    if check and done.returncode != 0:
        raise RuntimeError(f"{' '.join(args)}: exit status {done.returncode}: {done.stdout}{done.stderr}")
    return done.stdout


def show(unit, key):
    return run("systemctl", "show", "--property", key, "--value", unit).strip()


def main_pid(unit):
    return int(show(unit, "MainPID"))


def health():
    return json.loads(run("everportctl", "--json", "health"))


def ports():
    return {port["name"]: port for port in json.loads(run("everportctl", "--json", "ports"))}


def taps():
    return {path.name for path in pathlib.Path("/sys/class/net").iterdir() if path.name.startswith("ep-")}


def journal(unit):
    lines = run("journalctl", "--unit", unit, "--output", "json", "--no-pager").splitlines()
    return [entry for entry in map(json.loads, lines) if entry.get("_TRANSPORT") == "stdout"]


@pytest.fixture(scope="module", autouse=True)
def installed():
    """As the README says, on a host with a bridge."""
    install()
    run("systemctl", "daemon-reload")
    CONFIG.parent.mkdir(exist_ok=True)
    shutil.copy(EXAMPLE, CONFIG)
    run("ip", "link", "add", "br0", "up", "type", "bridge")
    yield
    run("systemctl", "stop", *UNITS, check=False)
    for unit in UNITS:
        print(run("journalctl", "--unit", unit, "--no-pager", check=False), file=open(f"{os.environ['LAB_RESULTS']}/{unit}.log", "w"))


def test_both_start_with_the_example():
    run("systemctl", "start", *UNITS)
    for unit in UNITS:
        assert show(unit, "ActiveState") == "active", run("journalctl", "--unit", unit)
        assert show(unit, "Result") == "success" and show(unit, "NRestarts") == "0"
    answer = health()
    print(answer)
    assert answer["ready"] and answer["keeper"] == "connected"
    assert set(ports()) == {"vm1-net0", "vm2-net0", "vm3-net0"}
    assert taps() == {"ep-vm1"}
    assert os.readlink("/sys/class/net/ep-vm1/master").endswith("/br0")


def test_members_of_the_group_may_ask_and_others_not():
    run("useradd", "--groups", "everport", "ops")
    run("useradd", "stranger")
    assert "vm1-net0" in run("runuser", "-u", "ops", "--", "everportctl", "ports")
    refused = subprocess.run(["runuser", "-u", "stranger", "--", "everportctl", "ports"], capture_output=True, text=True)
    assert refused.returncode == 1 and "api.sock" in refused.stderr, refused


def test_a_killed_daemon_is_started_again_and_the_keeper_stays():
    keeper, daemon = main_pid("everport-keeper"), main_pid("everportd")
    run("systemctl", "kill", "--signal", "KILL", "everportd")
    wait_until(lambda: main_pid("everportd") not in (0, daemon) and show("everportd", "ActiveState") == "active", 30,
               "everportd is active again")
    assert show("everportd", "NRestarts") == "1"
    assert main_pid("everport-keeper") == keeper
    assert health()["keeper"] == "connected" and taps() == {"ep-vm1"}


def test_a_killed_keeper_is_started_again_and_the_daemon_stays():
    keeper, daemon = main_pid("everport-keeper"), main_pid("everportd")
    run("systemctl", "kill", "--signal", "KILL", "everport-keeper")
    wait_until(lambda: main_pid("everport-keeper") not in (0, keeper) and show("everport-keeper", "ActiveState") == "active",
               30, "the keeper is active again")
    wait_until(lambda: health()["keeper"] == "connected", 10, "the daemon has found the new keeper")
    assert main_pid("everportd") == daemon


def test_reload_applies_a_changed_file_and_refuses_a_bad_one():
    daemon = main_pid("everportd")
    good = EXAMPLE.read_text().replace("ep-vm1", "ep-two")
    CONFIG.write_text(good)
    run("systemctl", "reload", "everportd")
    wait_until(lambda: taps() == {"ep-two"}, 10, "the port has its new tap")
    CONFIG.write_text(good + "\nnonsense = 1\n")
    run("systemctl", "reload", "everportd", check=False)
    wait_until(lambda: any("nonsense" in e["MESSAGE"] for e in journal("everportd")), 10, "the refusal is in the journal")
    assert taps() == {"ep-two"} and main_pid("everportd") == daemon
    shutil.copy(EXAMPLE, CONFIG)
    run("systemctl", "reload", "everportd")
    wait_until(lambda: taps() == {"ep-vm1"}, 10, "the port has its old tap again, and the other is gone")


def test_journal_lines_carry_priorities():
    for unit in UNITS:
        lines = journal(unit)
        assert lines and not [e["MESSAGE"] for e in lines if e["MESSAGE"].startswith("<")]
        assert "6" in {e["PRIORITY"] for e in lines}
    refusal = next(e for e in journal("everportd") if "nonsense" in e["MESSAGE"])
    assert refusal["PRIORITY"] in ("3", "4"), refusal


def test_a_refused_configuration_is_not_tried_again_and_again():
    CONFIG.write_text("nonsense = 1\n")
    assert subprocess.run(["systemctl", "restart", "everportd"], capture_output=True).returncode != 0
    assert show("everportd", "ActiveState") == "failed" and show("everportd", "ExecMainStatus") == "78"
    assert show("everport-keeper", "ActiveState") == "active"
    shutil.copy(EXAMPLE, CONFIG)
    run("systemctl", "start", "everportd")
    assert health()["ready"]


def test_stop_leaves_nothing_behind():
    run("systemctl", "stop", *UNITS)
    for unit in UNITS:
        assert show(unit, "ActiveState") == "inactive" and show(unit, "Result") == "success"
    assert taps() == {"ep-vm1"}, "on purpose: its bridge and addresses outlive a restart; it goes with its port"
    assert not [path for path in pathlib.Path("/run/everport").rglob("*") if path.is_socket()]
    assert run("pgrep", "--list-name", "everport", check=False) == ""
