"""A device in use loses its back-end, and gets another one."""

from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass

from qap.host.wait import poll_until
from qap.matrix.observation import CellObservation
from qap.matrix.probe import ProbeDriver
from qap.oracle.features import FeatureBit, bits, mask
from qap.oracle.lifecycle import Feature
from qap.vhost_user.backend import Backend
from qap.vhost_user.backend_channel import NoAnswer
from qap.vhost_user.protocol import Disconnected, FrontendRequest

BACK_S = 10.0
GREETED_S = 0.1


@dataclass
class Reconnect:
    """A back-end that disconnects while its device is in use, and reconnects.

    Args:
        driving: the driver, which goes on and is not told.
        seen: gets what is observed.
    """

    driving: ProbeDriver
    seen: CellObservation

    @property
    def backend(self) -> Backend:
        backend = self.driving.testbed.backend
        assert backend is not None
        return backend

    def run(self, lost: Collection[Feature]) -> None:
        """Reconnect without the lost features, and then, if there are any, with all features.

        Raises:
            QapError: QEMU ended.
            TimeoutError: QEMU doesn't connect again.
        """
        backend, seen = self.backend, self.seen
        offered = backend.features
        lesser = offered & ~mask(FeatureBit[name] for name in lost)
        try:
            backend.features = lesser
            kept = self._is_kept(self._leave())
            given = backend.acked_features or 0
            seen.later_unoffered = bits(given & ~lesser)
            seen.later_started = bool(backend.requests(FrontendRequest.SET_VRING_ADDR))
            seen.later_served = self._is_served()
        finally:
            backend.features = offered
        if lost:
            self._stay(kept)
            seen.recovered = self._is_served()
        else:
            seen.recovered = seen.later_served

    def depart(self) -> None:
        """Close the back-end for good, and let the driver go on.

        Raises:
            QapError: QEMU ended.
        """
        self._settle()
        self.backend.forget()
        self.backend.close()
        self.seen.later_served = self._is_served()

    def _is_served(self) -> bool | None:
        """Whether the back-end serves; QEMU itself may use what a network card sends."""
        driving = self.driving
        if not driving.has_queue:
            return None
        return driving.is_served_again() and bool(self.backend.served)

    def _settle(self) -> None:
        """Wait until it has handled all earlier messages, unless it is disconnected."""
        with suppress(NoAnswer, Disconnected):
            self.backend.settle()

    def _leave(self) -> int:
        """Disconnect; returns how many connections there were until then."""
        self._settle()
        self.backend.forget()
        before = self.backend.connections
        self.backend.hang_up()
        return before

    def _is_kept(self, before: int) -> bool:
        """Whether QEMU keeps the connection that comes next, or hangs up and connects again.

        QEMU decides while it handles the event of the new connection. Its monitor shows the
        connection only after that.
        """

        self._wait_greeted()

        def decided() -> bool | None:
            connections = self.backend.connections
            if connections > before + 1:
                return False
            return True if connections > before and self.driving.testbed.is_connected else None

        kept = poll_until(decided, BACK_S, lambda: "QEMU to connect to the back-end again")
        if kept:
            self.backend.settle()
        return kept

    def _wait_greeted(self) -> None:
        """Wait for the first request on a connection; raises QapError if QEMU has ended."""

        def greeted() -> bool | None:
            try:
                self.backend.wait_for(FrontendRequest.GET_FEATURES, GREETED_S)
            except TimeoutError:
                # It raises if QEMU has ended.
                self.driving.testbed.machine.qmp.execute("query-status")
                return None
            return True

        poll_until(greeted, BACK_S, lambda: "QEMU to connect to the back-end again")

    def _stay(self, kept: bool) -> None:
        """Reconnect for good.

        A connection that QEMU kept is closed first, as QEMU would not ask it for features again.
        """
        before = 0
        if kept:
            before = self._leave()
        else:
            self.backend.forget()
        self._wait_greeted()

        def stays() -> bool | None:
            came = self.backend.connections > before
            return True if came and self.driving.testbed.is_connected else None

        poll_until(stays, BACK_S, lambda: "QEMU to keep a back-end that offers everything")
