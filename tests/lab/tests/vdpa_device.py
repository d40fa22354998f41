# lab: timeout=600
"""VhostVdpaDevice on a real /dev/vhost-vdpa-N (VDUSE behind it): exact ring positions, processes that die and hang."""

import subprocess
import threading
import time

import pytest

from e2e.lib.timed import bar
from lab.lib.everport import BIN
from lab.lib.vduse import CountingDevice, drive

EVENT_IDX, IN_ORDER = 1 << 29, 1 << 35


def report(what, counts):
    print(f"{what}: " + ", ".join(f"{name} {value:.4g}" for name, value in counts.items()), flush=True)


def assert_sound(counts):
    for what in ("repeated", "corrupted", "unknown", "misordered", "wrong_positions", "outstanding"):
        assert counts[what] == 0, what


@pytest.mark.parametrize("pairs, features", [(1, 0), (2, EVENT_IDX | IN_ORDER)])
def test_a_hundred_switches_under_traffic_lose_and_double_nothing(pairs, features):
    with CountingDevice("echo0", pairs=pairs) as device:
        counts = drive("echo", device, 100, features)
        report(f"{pairs} pairs", counts)
        assert_sound(counts)
        assert counts["queue_pairs"] == pairs
        assert counts["missing"] == 0 and counts["received"] == counts["sent"]
        by_device = device.stats()
        assert by_device["starts"] == 100
        for pair in by_device["pairs"]:
            assert pair["received"] == pair["sent"] >= 100, "a queue pair was not served by the device"
            assert pair["refused"] == 0


@pytest.mark.parametrize("pairs", [1, 2])
def test_streams_each_way_across_a_hundred_stops(pairs):
    with CountingDevice("stream0", pairs=pairs, mode="stream") as device:
        counts = drive("stream", device, 100)
        report(f"{pairs} pairs", counts)
        assert_sound(counts)
        by_device = device.stats()["pairs"]
        assert counts["missing"] == 0
        assert counts["received"] == sum(pair["sent"] for pair in by_device)
        assert counts["sent"] == sum(pair["received"] for pair in by_device)
        assert all(pair["missing"] == pair["repeated"] == pair["corrupted"] == 0 for pair in by_device)


def test_a_killed_process_is_given_up_at_once():
    with CountingDevice("killed0") as device:
        reaper = threading.Thread(target=device.wait, args=(60,))
        reaper.start()
        start = time.monotonic()
        counts = drive("kill", device, device.pid)
        report(f"killed (driver ended after {time.monotonic() - start:.1f} s)", counts)
        reaper.join()
        assert_sound(counts)
        assert counts["stop_ms"] < bar(1000)
        assert counts["missing"] <= 32, "more than the one burst that its process had in hand"


def test_a_process_that_hangs_is_given_up_and_its_device_used_again_when_it_goes_on():
    with CountingDevice("halted0", msg_timeout=30) as device:
        result = drive("hang", device, device.pid)
        report(f"halted: given up after {result['given_up_ms']:.0f} ms; then", result["then"])
        assert result["given_up_ms"] < bar(1000)
        assert_sound(result["then"])
        assert result["then"]["missing"] == 0


def test_removal_is_told_at_once():
    with CountingDevice("removed0") as device:
        driver = subprocess.Popen([BIN / "vdpa_driver", "watch", device.node], stdout=subprocess.PIPE, text=True)
        assert driver.stdout.readline() == "open\n"
        start = time.monotonic()
        removal = threading.Thread(target=device.remove)  # returns when the node is closed
        removal.start()
        assert driver.stdout.readline() == "device removed\n"
        gap = time.monotonic() - start
        print(f"removal told after {1000 * gap:.1f} ms", flush=True)
        assert driver.wait(10) == 0
        removal.join(10)
        assert not removal.is_alive()
        assert gap < bar(0.5)


def test_a_busy_node_names_its_holder():
    with CountingDevice("busy0") as device:
        holder = subprocess.Popen([BIN / "vdpa_driver", "watch", device.node], stdout=subprocess.PIPE, text=True)
        assert holder.stdout.readline() == "open\n"
        second = subprocess.run([BIN / "vdpa_driver", "watch", device.node], stderr=subprocess.PIPE, text=True)
        assert second.returncode == 1
        assert f"in use by process {holder.pid} (vdpa_driver)" in second.stderr
        holder.kill()
        holder.wait()
