"""A real guest over tap: it talks to the network through everport, and nothing is lost, changed or held up."""

import json

from lib.measure import Flow, gbit_per_s
from lib.stage import Stage

SECONDS = 60
STALL_MS = 1000


def check(result, guest_result, what):
    assert result["ok"], f"{what}: {result}"
    assert json.loads(guest_result.output)["ok"], f"{what}: the guest says {guest_result.output}"
    assert result["longest_stall_ms"] < STALL_MS, f"{what}: {result}"
    print(f"{what}: {result['bytes'] / 1e6:.0f} MB at {gbit_per_s(result):.2f} Gb/s, every byte as sent, "
          f"longest stall {result['longest_stall_ms']:.0f} ms")


def test_ping_then_tcp_both_ways(guest_files):
    with Stage("relay", guest_files=guest_files) as stage:
        stage.start()
        pings = stage.pinger()
        start = pings.wait_reply(0, 10)
        pings.wait_reply(start + 2, 10)
        assert pings.stop().lost == 0
        assert pings.duplicates == 0
        print(f"\npings: {pings.sent} sent, {pings.lost} lost")

        echo = stage.guest.spawn("everport-flow echo 5003")
        datagrams = Flow(stage.net.prefix(), stage.flow_program, ["ping", stage.guest.address, 5003, 2, 1],
                         stage.work).wait(30)
        assert echo.result(10).status == 0
        assert (datagrams["lost"], datagrams["duplicated"], datagrams["reordered"]) == (0, 0, 0), datagrams

        out, receiver = stage.flow_to_guest(SECONDS)
        back, sender = stage.flow_from_guest(SECONDS)
        check(out.wait(SECONDS + 40), receiver.result(40), "TCP to the guest")
        check(back.wait(SECONDS + 40), sender.result(40), "TCP from the guest")

        port = stage.everport.port(stage.PORT)
        assert port["state"] == "running"
        assert (port["path"]["index"], port["path"]["kind"], port["path"]["mode"]) == (0, "tap", "relay")
        assert port["rx_bytes"] >= out.result["bytes"] and port["tx_bytes"] >= back.result["bytes"], port
        print(stage.everport.ctl_text("ports").stdout)


def test_jumbo_frames_with_four_queue_pairs(guest_files):
    with Stage("jumbo", queue_pairs=4, mtu=9000, guest_files=guest_files) as stage:
        stage.start()
        stage.net.run("ping", "-c", "20", "-i", "0.02", "-M", "do", "-s", "8900", stage.guest.address)
        flows = [stage.flow_to_guest(5, 5001), stage.flow_from_guest(5, 5002), stage.flow_to_guest(5, 5003)]
        for number, (flow, guest_side) in enumerate(flows):
            check(flow.wait(40), guest_side.result(40), f"TCP {number} at MTU 9000")
        assert stage.guest.run("cat /sys/class/net/eth0/mtu").strip() == "9000"
