"""What a stage sends to and from its guest. Whoever has it provides net, guest, work, flow_program and _closers."""

from .measure import Flow, Pinger


class Traffic:
    def pinger(self, **options):
        pinger = Pinger(self.net.prefix(), self.flow_program, self.guest.address, self.work, **options)
        self._closers.callback(pinger.close)
        return pinger

    def flow_to_guest(self, seconds, port=5001, rate=0):
        """A TCP stream from the network, of at most so many bytes a second (0: any); (the Flow, the future of the guest's
        receiver)."""
        receiver = self.guest.spawn(f"everport-flow recv {port}")
        flow = self._flow("send", self.guest.address, port, seconds, 20, rate)
        return flow, receiver

    def flow_from_guest(self, seconds, port=5002):
        """A TCP stream from the guest; (the Flow, the future of the guest's sender); `kill $(cat /tmp/PORT)` ends it."""
        flow = self._flow("recv", port, 20)
        sender = self.guest.spawn(f"echo $$ > /tmp/{port}; exec everport-flow send {self.net.address} {port} {seconds}")
        return flow, sender

    def _flow(self, *args):
        flow = Flow(self.net.prefix(), self.flow_program, args, self.work)
        self._closers.callback(flow.close)
        return flow
