"""Run a driver on a plugged device, and record what is observed."""

from dataclasses import dataclass

from qap.matrix.cell import Cell
from qap.matrix.config_reading import ConfigReader
from qap.matrix.lab import CellLab
from qap.matrix.migration import Migration
from qap.matrix.observation import CellObservation
from qap.matrix.probe import ProbeDriver
from qap.matrix.reconnect import Reconnect
from qap.matrix.tables import DriverRow
from qap.matrix.testbed import Testbed
from qap.oracle import config
from qap.oracle.features import FeatureBit, bits, mask
from qap.oracle.status import Status
from qap.vhost_user.backend import Backend
from qap.vhost_user.protocol import FrontendRequest
from qap.virtio.driver import MODERN, Behaviour, Driver
from qap.virtio.transport import Transport

COMBINED = Status.ACKNOWLEDGE | Status.DRIVER | Status.FEATURES_OK | Status.DRIVER_OK


@dataclass
class CellRun:
    """One cell, on a testbed where its config is plugged.

    Args:
        confirms: see ProbeDriver.
    """

    testbed: Testbed
    cell: Cell
    confirms: bool = False

    def run(self, observation: CellObservation) -> None:
        """Carry out the cell and note what is observed.

        Raises:
            QapError, TimeoutError: it could not be carried out.
        """
        row = self.cell.driver_row
        observation.newer = self.testbed.newer
        if row.reads_config:
            self._read_config(observation)
        transport = self.testbed.slot.transport(
            legacy=row.legacy or self.cell.config.interface_row.legacy == "only"
        )
        backend = self.testbed.backend
        transport.reset()
        if backend:
            backend.forget()
        if self._lab:
            self._lab.begin()
        try:
            try:
                driving = self._drive(transport, row, observation)
            finally:
                if backend:
                    self._ask(backend, observation)
                if self._lab:
                    self._ask_kernel(self._lab, observation)
            self._go_on(driving, observation)
        finally:
            transport.reset()

    @property
    def _lab(self) -> CellLab | None:
        """The lab, if its kernel serves the device."""
        return self.testbed.lab if self.cell.config.device_row.kernel else None

    def _read_config(self, observation: CellObservation) -> None:
        """Let other drivers read device configuration first."""
        size = config.size(self.cell.config.device_row.config_layout)
        accepts = self._supported(self.cell.driver_row, proper=True)
        for turn, interface in enumerate(self.cell.driver_row.reads_config):
            transport = self.testbed.slot.transport(legacy=interface == "legacy")
            observation.config += ConfigReader(transport, turn, size, accepts).run()

    def _drive(
        self, transport: Transport, row: DriverRow, observation: CellObservation
    ) -> ProbeDriver:
        supports = self._supported(row)
        behaviour = Behaviour(supports, sets_features_ok=row.features_ok == "alone", obeys=False)
        driving = ProbeDriver(self.testbed, self.cell.config, transport, behaviour, self.confirms)
        observation.features = bits(driving.offered)
        observation.addresses = "iova" if driving.memory is self.testbed.mapped else "gpa"
        if row.kicks == "first":
            driving.set_up(others=False)
            observation.served = driving.is_served_again()
            observation.status = int(transport.status)
            return driving
        if row.again:
            refusing = behaviour.without(FeatureBit.ACCESS_PLATFORM)
            Driver(transport, driving.memory, refusing).negotiate()
        status = driving.driver.negotiate()
        if behaviour.sets_features_ok and not transport.legacy:
            observation.features_ok = Status.FEATURES_OK in status
        observation.status = int(status)
        if row.obeys and observation.features_ok is False:
            observation.served = False
            return driving
        driving.set_up()
        if row.starts:
            self._start(driving, status, row, observation)
        return driving

    def _start(
        self, driving: ProbeDriver, status: Status, row: DriverRow, observation: CellObservation
    ) -> None:
        """Offer a buffer, set DRIVER_OK, and note whether the buffer is served."""
        transport = driving.transport
        driving.offer()
        if row.kicks == "early":
            driving.notify()
            observation.served_early = driving.is_served()
        if row.features_ok == "with-driver-ok":
            transport.set_status(COMBINED)
            observation.status = int(transport.status)
        elif observation.features_ok is False:
            # It goes on from the status that it read back, as if nothing had been refused.
            transport.set_status(status | Status.DRIVER_OK)
            observation.status = int(transport.status)
        else:
            observation.status = int(driving.driver.start())
        if not observation.served_early:
            driving.notify()
        observation.served = observation.served_early or driving.is_served()

    def _go_on(self, driving: ProbeDriver, observation: CellObservation) -> None:
        """Then its back-end leaves or reconnects, or the VM migrates, if the cell says so."""
        config = self.cell.config
        if config.later_row.leaves:
            Reconnect(driving, observation).depart()
        elif config.later_row.returns:
            Reconnect(driving, observation).run(config.later_row.loses)
        elif config.destination:
            row = self.cell.driver_row
            proper = Behaviour(self._supported(row, proper=True), obeys=False)
            Migration(driving, config.destination, proper, not row.starts, observation).run()

    def _supported(self, row: DriverRow, *, proper: bool = False) -> int:
        """The feature bits that the driver supports, or a proper driver for this device."""
        supports = 0
        if row.version_1 or proper:
            supports = mask([FeatureBit.VERSION_1]) | mask(self.cell.config.device_row.accepts)
            if row.access_platform or proper:
                supports |= MODERN
            if row.packed:
                supports |= mask([FeatureBit.RING_PACKED])
        return supports

    def _ask(self, backend: Backend, observation: CellObservation) -> None:
        """What a vhost back-end was told since the driver began."""
        given = backend.acked_features
        if given is not None:
            observation.backend_features = bits(given)
            observation.backend_unoffered = bits(given & ~backend.features)
        observation.ring_started = bool(backend.requests(FrontendRequest.SET_VRING_ADDR))
        observation.iotlb = len(backend.requests(FrontendRequest.IOTLB_MSG))
        spaces = {touched.space for touched in backend.touched}
        if spaces:
            observation.addresses = "iova" if "iova" in spaces else "gpa"

    def _ask_kernel(self, lab: CellLab, observation: CellObservation) -> None:
        """What the kernel was told since the driver began."""
        if self.cell.config.device_row.is_vdpa:
            observation.iotlb_before = lab.iotlb_before
        heard = lab.take()
        if heard.features is not None:
            observation.backend_features = bits(heard.features)
            kernel = lab.told.offered(self.cell.config.device_row.node)
            observation.backend_unoffered = bits(heard.features & ~kernel)
        observation.ring_started = heard.ring
        observation.iotlb = heard.iotlb
