"""SIGKILL of the daemon under traffic: the guest's link stays up, traffic comes back each time, soon."""

import json

import pytest

from lib.measure import median
from lib.stage import Stage

KILLS = 10
LONGEST_GAP_S = 1.0


@pytest.mark.parametrize("queue_pairs", [1, 4])
@pytest.mark.parametrize("ring", ["split", "packed"])
def test_guest_never_sees_the_daemon_leave(guest_files, ring, queue_pairs):
    with Stage("kill", queue_pairs=queue_pairs, packed=ring == "packed", guest_files=guest_files) as stage:
        stage.start()
        assert stage.everport.get(f"/v1/ports/{stage.PORT}")["packed"] == (ring == "packed")
        changes = stage.guest.carrier_changes()
        pings = stage.pinger()
        out, receiver = stage.flow_to_guest(600)
        back, sender = stage.flow_from_guest(600)
        settled = pings.wait_reply(max(out.wait_progress(0, 30), back.wait_progress(0, 30)), 10)

        print(f"\n{ring} rings, {queue_pairs} queue pair(s); milliseconds\n"
              "kill   gap  of it: EAL  uplinks  replay  start total   TCP out  TCP back  carrier_changes")
        gaps = []
        for kill in range(1, KILLS + 1):
            pings.wait_reply(settled + 0.3, 10)
            killed = stage.everport.kill_daemon()
            stage.everport.start_daemon()
            ready = pings.wait_reply(killed + 0.05, 20)  # what was on its way at the kill has come by then
            settled = max(ready, out.wait_progress(ready, 20), back.wait_progress(ready, 20))
            pings.wait_reply(settled, 10)
            gaps.append(pings.gap(killed, ready))
            took = stage.everport.startup()
            now = stage.guest.carrier_changes()
            print(f"{kill:4} {gaps[-1] * 1000:5.0f} {took['eal_ms']:12.0f} {took['uplinks_ms']:8.0f} "
                  f"{took['replay_ms']:7.0f} {took['total_ms']:12.0f} {out.gap(killed, settled) * 1000:9.0f} "
                  f"{back.gap(killed, settled) * 1000:9.0f}  {now:15}")
            assert now == changes, f"kill {kill}: carrier_changes {changes} -> {now}"
        print(f"median gap {median(gaps) * 1000:.0f} ms, longest {max(gaps) * 1000:.0f} ms")

        assert stage.guest.carrier()
        # What TCP carried over ten kills is what was sent.
        sent = out.finish()
        assert sent["ok"] and json.loads(receiver.result(40).output)["ok"], sent
        stage.guest.run("kill $(cat /tmp/5002)")
        received = back.wait(40)
        assert received["ok"] and json.loads(sender.result(40).output)["ok"], received
        pings.stop()
        print(f"pings: {pings.sent} sent, {pings.lost} lost, {pings.duplicates} doubled; "
              f"TCP: {sent['bytes'] / 1e6:.0f} MB out, {received['bytes'] / 1e6:.0f} MB back, every byte as sent")
        assert max(gaps) <= LONGEST_GAP_S
