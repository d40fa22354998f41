"""The lab has vDPA: a VDUSE device behind /dev/vhost-vdpa-N, and frames go through it."""

import pathlib

from e2e.lib.process import wait_until
from lab.lib.testpmd import Testpmd
from lab.lib.vdpa import VduseDevice, vdpa


def test_frames_pass_a_vduse_device():
    with VduseDevice("vduse0") as device:
        assert pathlib.Path(device.node).is_char_device()
        assert "vduse0" in vdpa("dev", "show")["dev"]
        # DPDK's virtio-user drives the device as a guest would; both sides send back what they get, for ever.
        with Testpmd("driver", vdevs=[f"net_virtio_user0,path={device.node}"], eal=["--single-file-segments"],
                     options=["--port-topology=loop"]) as driver:
            driver.command("start tx_first")
            wait_until(lambda: driver.counters()["RX-packets"] > 1000, 20, "frames come back")
    assert not pathlib.Path("/dev/vduse/vduse0").exists()
