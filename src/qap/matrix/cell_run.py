"""A driver meets a plugged device, and what is seen of that."""

from dataclasses import dataclass

from qap.matrix.cell import Cell
from qap.matrix.migration import Migration
from qap.matrix.observation import CellObservation
from qap.matrix.probe import ProbeDriver
from qap.matrix.reconnect import Reconnect
from qap.matrix.tables import DriverRow
from qap.matrix.testbed import Testbed
from qap.oracle.features import FeatureBit, bits, mask
from qap.oracle.status import Status
from qap.vhost_user.backend import Backend
from qap.vhost_user.protocol import FrontendRequest
from qap.virtio.driver import MODERN, Behaviour, Driver
from qap.virtio.transport import Transport

COMBINED = Status.ACKNOWLEDGE | Status.DRIVER | Status.FEATURES_OK | Status.DRIVER_OK


@dataclass
class CellRun:
    """One cell on a site where its config is plugged.

    Args:
        patience: factor on the number of round trips that a buffer gets.
    """

    testbed: Testbed
    cell: Cell
    patience: int = 1

    def run(self, seen: CellObservation) -> None:
        """Carry it out and note what is seen.

        Raises:
            QapError, TimeoutError: it could not be carried out.
        """
        row = self.cell.driver_row
        transport = self.testbed.place.transport(
            legacy=row.legacy or self.cell.config.interface_row.legacy == "only"
        )
        backend = self.testbed.backend
        transport.reset()
        if backend:
            backend.forget()
        try:
            try:
                driving = self._drive(transport, row, seen)
            finally:
                if backend:
                    self._ask(backend, seen)
            self._go_on(driving, seen)
        finally:
            transport.reset()

    def _drive(self, transport: Transport, row: DriverRow, seen: CellObservation) -> ProbeDriver:
        size = self.cell.config.device_row.stable_config
        supports = self._supported(row)
        behaviour = Behaviour(supports, sets_features_ok=row.features_ok == "alone", obeys=False)
        driving = ProbeDriver(self.testbed, self.cell.config, transport, behaviour, self.patience)
        seen.features = bits(driving.offered)
        seen.addresses = "iova" if driving.memory is self.testbed.mapped else "gpa"
        if row.reads_config:
            seen.config_early = transport.config_read(0, size).hex()
        if row.kicks == "first":
            driving.set_up(others=False)
            seen.served = driving.is_served_again()
            seen.status = int(transport.status)
            return driving
        if row.again:
            refusing = behaviour.without(FeatureBit.ACCESS_PLATFORM)
            Driver(transport, driving.memory, refusing).negotiate()
        status = driving.driver.negotiate()
        if behaviour.sets_features_ok and not transport.legacy:
            seen.features_ok = Status.FEATURES_OK in status
        seen.status = int(status)
        if row.obeys and seen.features_ok is False:
            seen.served = False
            return driving
        driving.set_up()
        if row.starts:
            self._start(driving, status, row, seen)
        if row.reads_config:
            seen.config_late = transport.config_read(0, size).hex()
        return driving

    def _start(
        self, driving: ProbeDriver, status: Status, row: DriverRow, seen: CellObservation
    ) -> None:
        """From a queue that is set up to one that is served, or not."""
        transport = driving.transport
        driving.offer()
        if row.kicks == "early":
            driving.notify()
            seen.served_early = driving.is_served()
        if row.features_ok == "with-driver-ok":
            transport.set_status(COMBINED)
            seen.status = int(transport.status)
        elif seen.features_ok is False:
            # It goes on from the status that it read back, as if nothing had been refused.
            transport.set_status(status | Status.DRIVER_OK)
            seen.status = int(transport.status)
        else:
            seen.status = int(driving.driver.start())
        if not seen.served_early:
            driving.notify()
        seen.served = seen.served_early or driving.is_served()

    def _go_on(self, driving: ProbeDriver, seen: CellObservation) -> None:
        """What the cell has in store for a driver that has come so far."""
        config = self.cell.config
        if config.later_row.leaves:
            Reconnect(driving, seen).depart()
        elif config.later_row.returns:
            Reconnect(driving, seen).run(config.later_row.loses)
        elif config.destination:
            row = self.cell.driver_row
            proper = Behaviour(self._supported(row, proper=True), obeys=False)
            Migration(driving, config.destination, proper, not row.starts, seen).run()

    def _supported(self, row: DriverRow, *, proper: bool = False) -> int:
        """The feature bits that the driver, or a proper one, knows what to do with."""
        supports = 0
        if row.version_1 or proper:
            supports = mask([FeatureBit.VERSION_1]) | mask(self.cell.config.device_row.accepts)
            if row.access_platform or proper:
                supports |= MODERN
            if row.packed:
                supports |= mask([FeatureBit.RING_PACKED])
        return supports

    def _ask(self, backend: Backend, seen: CellObservation) -> None:
        """What a vhost back-end was told since the driver began."""
        given = backend.acked_features
        if given is not None:
            seen.backend_features = bits(given)
            seen.backend_unoffered = bits(given & ~backend.features)
        seen.ring_started = bool(backend.requests(FrontendRequest.SET_VRING_ADDR))
        seen.iotlb = len(backend.requests(FrontendRequest.IOTLB_MSG))
        spaces = {touched.space for touched in backend.touched}
        if spaces:
            seen.addresses = "iova" if "iova" in spaces else "gpa"
