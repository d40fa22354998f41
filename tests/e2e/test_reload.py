"""A new configuration touches the ports it changes, and no other."""

from lib.everport import port_toml
from lib.process import wait_until
from lib.stage import Stage


def other(stage, name, tap, **keys):
    return port_toml(name, stage.work / f"{name}.sock", [{"kind": "tap", "device": tap}], **keys)


def names(stage):
    return [port["name"] for port in stage.everport.ctl("ports")]


def links(stage):
    return stage.net.ip("-br", "link")


def test_reload_leaves_the_other_ports_traffic_alone(guest_files):
    with Stage("reload", guest_files=guest_files) as stage:
        everport = stage.everport
        everport.write_config(stage.port(), other(stage, "vm2", "ep-vm2"))
        stage.start()
        changes = stage.guest.carrier_changes()
        assert names(stage) == ["vm1", "vm2"] and "ep-vm2" in links(stage)

        pings = stage.pinger()
        out, receiver = stage.flow_to_guest(600)
        start = pings.wait_reply(out.wait_progress(0, 30), 10)

        # vm2 gets another uplink, vm3 comes; then vm2 goes.
        everport.reload(stage.port(), other(stage, "vm2", "ep-two"), other(stage, "vm3", "ep-vm3"))
        wait_until(lambda: names(stage) == ["vm1", "vm2", "vm3"], 5, "vm3 is there")
        wait_until(lambda: "ep-two" in links(stage) and "ep-vm2" not in links(stage), 5, "vm2 has its new tap")
        everport.reload(stage.port(), other(stage, "vm3", "ep-vm3"))
        wait_until(lambda: names(stage) == ["vm1", "vm3"], 5, "vm2 is gone")
        wait_until(lambda: "ep-two" not in links(stage), 5, "vm2's tap is gone")

        # A bad configuration is refused as a whole, and says where it is bad.
        before = everport.ctl("ports")
        everport.reload(stage.port(), other(stage, "vm4", "ep-vm4", mtuu=1500))
        assert "mtuu" in everport.daemon.log_tail(), everport.daemon.log_tail()
        assert [p["name"] for p in before] == names(stage)

        end = pings.wait_reply(pings.wait_reply(start, 1) + 1, 10)
        pings.wait_reply(end, 10)
        assert pings.stop().lost == 0
        assert pings.duplicates == 0
        print(f"\n{pings.sent} pings during three reloads: {pings.lost} lost, "
              f"longest gap {pings.gap(start, end) * 1000:.0f} ms")
        sent = out.finish()
        assert sent["ok"] and receiver.result(30).status == 0, sent

        # The port's own uplink changes under it: the guest's link does not.
        everport.reload(stage.port(tap="ep-new"), other(stage, "vm3", "ep-vm3"))
        wait_until(lambda: "ep-new" in links(stage) and "ep-vm1" not in links(stage), 5, "vm1 has its new tap")
        stage.wait_reachable()
        assert stage.guest.carrier_changes() == changes
        assert everport.port("vm1")["state"] == "running"
