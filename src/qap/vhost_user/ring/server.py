"""Serves those rings of a connection that are started, enabled and kicked."""

import sys
from collections.abc import Callable

from qap.oracle.features import FeatureBit
from qap.vhost_user.chain_service import YIELD, At, Ends, Later, Served
from qap.vhost_user.device import Device
from qap.vhost_user.memory.mem_table import BadAddress
from qap.vhost_user.misbehave import Rules
from qap.vhost_user.protocol import ProtocolError
from qap.vhost_user.records import RingError
from qap.vhost_user.ring.packed import PackedRing
from qap.vhost_user.ring.ring import Chain, MalformedRing, Ring, RingLayout
from qap.vhost_user.ring.split import SplitRing
from qap.vhost_user.ring.vring import Vring, signal
from qap.vhost_user.session import Session


class RingStopped(Exception):
    """The front-end stopped or changed the ring that is being served."""


class RingServer:
    """Takes chains off rings, has them served, and puts them into used rings.

    Args:
        session: the session with the rings.
        device: has the service and the records.
        rules: what to do wrong.
        call: tells the driver that a ring without a call eventfd has used entries.
    """

    def __init__(
        self, session: Session, device: Device, rules: Rules, call: Callable[[Vring], None]
    ) -> None:
        self._session = session
        self._device = device
        self._rules = rules
        self._call = call
        self._serving: Vring | None = None
        self._changes = 0

    def serve(self) -> None:
        """Serve every due ring until it has no more chains available."""
        for vring in self._session.vrings:
            if vring.is_due:
                self._serve(vring)

    def check(self) -> None:
        """Call this after messages were handled while a ring was being served.

        Raises:
            RingStopped: that ring was stopped or changed.
        """
        if self._serving and self._serving.changes != self._changes:
            raise RingStopped

    def _serve(self, vring: Vring) -> None:
        vring.due, vring.again = False, None
        self._serving, self._changes = vring, vring.changes
        try:
            ring = vring.ring = vring.ring or self._load(vring)
            while chain := self._next_chain(ring):
                if not self._serve_chain(vring, ring, chain):
                    return
                self._wake_others(vring)
        except RingStopped:
            # Chains that were not used yet are served again if the ring goes on.
            vring.due = True
        except (BadAddress, MalformedRing) as exc:
            self._device.records.add_error(RingError(vring.index, exc))
            signal(vring.err)
        finally:
            self._serving = None

    def _load(self, vring: Vring) -> Ring:
        acked = self._session.acked
        memory = self._session.memory
        big = sys.byteorder == "big" if vring.big_endian is None else vring.big_endian
        layout = RingLayout(
            vring.size,
            vring.desc,
            vring.driver,
            vring.device,
            order=">" if big and not acked.has(FeatureBit.VERSION_1) else "<",
            indirect=acked.has(FeatureBit.INDIRECT_DESC),
            event_idx=acked.has(FeatureBit.EVENT_IDX),
        )
        inflight = self._session.inflight
        if inflight and (vring.index >= inflight.queues or vring.size > inflight.entries):
            raise MalformedRing("larger than SET_INFLIGHT_FD said")
        kind = PackedRing if acked.has(FeatureBit.RING_PACKED) else SplitRing
        rings = memory.rings(vring.index, vring.device, vring.log)
        return kind(layout, rings, memory.buffers(vring.index), vring.base)

    def _next_chain(self, ring: Ring) -> Chain | None:
        chain = ring.next_chain()
        if chain is None and ring.ask_kick():
            # A chain may have become available before the driver saw our request.
            chain = ring.next_chain()
        return chain

    def _wake_others(self, vring: Vring) -> None:
        for other in self._session.vrings:
            if other is not vring:
                other.wake()

    def _leave(self, vring: Vring, answer: Later | At) -> None:
        """Leave a chain as the service said."""
        vring.wait(answer.when if isinstance(answer, At) else None)
        if answer is YIELD:
            self._wake_others(vring)
            vring.wake()

    def _serve_chain(self, vring: Vring, ring: Ring, chain: Chain) -> bool:
        """Serve a chain; returns False if the service leaves it for now."""
        records = self._device.records
        inflight = self._session.inflight
        index, room = vring.index, chain.room
        readable = b"".join(
            [ring.buffers.read("buffer", buffer.address, buffer.size) for buffer in chain.readable]
        )
        if inflight and vring.noted is None:
            vring.noted = inflight.begin(index, chain)
        written = self._device.service(index, readable, room)
        if isinstance(written, Later | At):
            self._leave(vring, written)
            return False
        if written is None:
            records.add_served(Served(index, chain.id, readable, None, room))
            ring.advance(chain)
            vring.noted = None
            return True
        ends = written if isinstance(written, Ends) else Ends(written, b"")
        size = len(ends.head) + len(ends.tail)
        if size > room:
            raise ProtocolError(f"the service wrote {size} bytes into a room of {room}")
        self._fill(ring, chain, ends.head, 0)
        self._fill(ring, chain, ends.tail, room - len(ends.tail))
        size = room if ends.tail else size
        # Record it before the driver can see the used entry and a test compares the records.
        records.add_served(Served(index, chain.id, readable, size, room))
        entry = (chain.id, size)
        entries = self._rules.used(index, entry, room)
        for used_id, length in entries:
            ring.use(used_id, length, len(chain.taken))
        ring.advance(chain)
        if inflight and vring.noted is not None:
            inflight.end(index, vring.noted, ring.used_position)
        vring.noted = None
        if ring.wants_call():
            if vring.call is None:
                self._call(vring)
            else:
                signal(vring.call)
        return True

    def _fill(self, ring: Ring, chain: Chain, data: bytes, skipped: int) -> None:
        """Write into the writable buffers, but for so many bytes at their beginning."""
        for buffer in chain.writable:
            if not data:
                return
            room = max(0, buffer.size - skipped)
            if room:
                ring.buffers.write("buffer", buffer.address + buffer.size - room, data[:room])
            skipped -= buffer.size - room
            data = data[room:]
