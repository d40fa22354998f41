"""The guest's side goes and comes back, with the daemon there and without it; and the daemon without a keeper."""

from lib.process import wait_until
from lib.stage import Stage


def check_reachable(stage):
    """Ping and a verified stream both ways."""
    stage.wait_reachable()
    for flow, guest_side in (stage.flow_to_guest(1), stage.flow_from_guest(1)):
        assert flow.wait(30)["ok"]
        assert guest_side.result(30).status == 0


def test_guest_reset_and_qemu_restart(guest_files):
    with Stage("restart", guest_files=guest_files) as stage:
        stage.start()
        check_reachable(stage)

        stage.guest.reset()
        check_reachable(stage)

        stage.boot().wait_booted()  # another QEMU on the same socket
        check_reachable(stage)

        # The keeper alone brings a guest up; the daemon then takes over a session it has never seen begin.
        stage.everport.kill_daemon()
        stage.guest.reset()
        changes = stage.guest.carrier_changes()
        assert stage.guest.carrier()
        stage.everport.start_daemon()
        check_reachable(stage)
        assert stage.guest.carrier_changes() == changes

        stage.everport.kill_daemon()
        stage.boot().wait_booted()
        changes = stage.guest.carrier_changes()
        stage.everport.start_daemon()
        check_reachable(stage)
        assert stage.guest.carrier_changes() == changes

        # A QEMU that goes for good leaves a port that waits.
        stage.guest.stop()
        wait_until(lambda: stage.everport.port(stage.PORT)["state"] == "waiting", 5, "port vm1 waits for QEMU")


def test_four_packed_queue_pairs_through_a_reset_without_a_daemon(guest_files):
    with Stage("packed", queue_pairs=4, packed=True, guest_files=guest_files) as stage:
        stage.start()
        check_reachable(stage)
        stage.everport.kill_daemon()
        stage.guest.reset()
        stage.everport.start_daemon()
        check_reachable(stage)


def test_without_a_keeper_the_link_flaps_and_comes_back(guest_files):
    with Stage("direct", keeper=False, guest_files=guest_files) as stage:
        stage.start()
        check_reachable(stage)
        changes = stage.guest.carrier_changes()
        for _ in range(3):
            stage.everport.kill_daemon()
            stage.everport.start_daemon()
            wait_until(stage.guest.carrier, 10, "the guest's link is up")
            check_reachable(stage)
        assert stage.guest.carrier_changes() == changes + 6  # what the keeper spares the guest
