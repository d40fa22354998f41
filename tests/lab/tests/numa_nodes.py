"""The lab has two NUMA nodes, and everport sees on which of them a guest's memory lies."""

import contextlib

from e2e.lib.everport import Everport, port_toml
from e2e.lib.process import wait_until
from lab.lib import machine
from lab.lib.everport import BIN
from lab.lib.testpmd import Testpmd


def test_placement_shows_each_guests_node(tmp_path):
    """A front-end on either node, a wire between them."""
    sockets = [tmp_path / f"vm{node}.sock" for node in range(machine.NODES)]
    everport = Everport(BIN, tmp_path)
    everport.write_config(*[port_toml(f"vm{node}", sockets[node], [{"kind": "port", "device": f"vm{1 - node}"}])
                            for node in range(machine.NODES)])
    with contextlib.ExitStack() as stack:
        stack.callback(everport.stop)
        everport.start()
        for node, socket in enumerate(sockets):
            # DPDK takes memory of the node whose CPUs it has.
            cpus = f"{node * machine.CPUS_PER_NODE}-{node * machine.CPUS_PER_NODE + 1}"
            guest = stack.enter_context(Testpmd(
                f"guest{node}", vdevs=[f"net_virtio_user0,path={socket},server=1"], cpus=cpus,
                eal=["--single-file-segments"], options=["--port-topology=loop"]))
            guest.command("start tx_first" if node else "start")
        wait_until(lambda: guest.counters()["RX-packets"] > 1000, 20, "frames come back from the other node")
        print(everport.ctl_text("placement").stdout)
        rows = {row["port"]: row for row in everport.ctl("placement")}
        assert {name: row["guest_node"] for name, row in rows.items()} == {"vm0": 0, "vm1": 1}
