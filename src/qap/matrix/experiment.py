"""A driver meets a plugged device, and what is seen of that."""

from dataclasses import dataclass

from qap.features import FeatureBit, bits, mask
from qap.matrix.cell import Cell
from qap.matrix.model import DriverRow, Probe
from qap.matrix.seen import Seen
from qap.matrix.site import Site
from qap.vhost_user.backend import Backend
from qap.vhost_user.protocol import FrontendRequest
from qap.virtio.driver import MODERN, Behaviour, Driver
from qap.virtio.memory import GuestMemory
from qap.virtio.queue import Buffer, Queue
from qap.virtio.transport import Status, Transport

# Round trips through QEMU's main loop after which a buffer counts as unserved.
PATIENCE = 16
PROGRAM_PATIENCE = 48
FILLER = b"\xa5"
COMBINED = Status.ACKNOWLEDGE | Status.DRIVER | Status.FEATURES_OK | Status.DRIVER_OK


@dataclass
class Experiment:
    """One cell on a site where its config is plugged.

    Args:
        patience: factor on the number of round trips that a buffer gets.
    """

    site: Site
    cell: Cell
    patience: int = 1
    _answer: tuple[GuestMemory, int, int] | None = None

    def run(self, seen: Seen) -> None:
        """Carry it out and note what is seen.

        Raises:
            QapError, TimeoutError: it could not be carried out.
        """
        row = self.cell.driver_row
        transport = self.site.place.transport(
            legacy=row.legacy or self.cell.config.interface_row.legacy == "only"
        )
        backend = self.site.backend
        transport.reset()
        if backend:
            backend.forget()
        try:
            self._drive(transport, row, seen)
        finally:
            if backend:
                self._ask(backend, seen)
            transport.reset()

    def _drive(self, transport: Transport, row: DriverRow, seen: Seen) -> None:
        offered = transport.device_features
        seen.features = bits(offered)
        supports = self._supported(row)
        accepts_platform = bool((offered & supports) >> FeatureBit.ACCESS_PLATFORM & 1)
        memory = self._memory(accepts_platform)
        seen.addresses = "iova" if memory is self.site.mapped else "gpa"
        probe = self.cell.config.device_row.probe
        assert probe is not None
        size = self.cell.config.device_row.config
        if row.reads_config:
            seen.config_early = transport.config_read(0, size).hex()
        behaviour = Behaviour(supports, sets_features_ok=row.features_ok == "alone", obeys=False)
        if row.kicks == "first":
            self._kick_first(Driver(transport, memory, behaviour), probe, seen)
            return
        if row.again:
            refusing = behaviour.without(FeatureBit.ACCESS_PLATFORM)
            Driver(transport, memory, refusing).negotiate()
        driver = Driver(transport, memory, behaviour)
        status = driver.negotiate()
        if behaviour.sets_features_ok and not transport.legacy:
            seen.features_ok = Status.FEATURES_OK in status
        seen.status = int(status)
        if row.obeys and seen.features_ok is False:
            seen.served = False
            return
        for other in probe.others:
            driver.queue(other)
        queue = driver.queue(probe.queue)
        self._offer(queue, memory, probe)
        if row.kicks == "early":
            transport.notify(queue.index)
            seen.served_early = self._is_served(queue)
        if row.features_ok == "with-driver-ok":
            transport.set_status(COMBINED)
            seen.status = int(transport.status)
        elif seen.features_ok is False:
            # It goes on from the status that it read back, as if nothing had been refused.
            transport.set_status(status | Status.DRIVER_OK)
            seen.status = int(transport.status)
        else:
            seen.status = int(driver.start())
        if not seen.served_early:
            transport.notify(queue.index)
        seen.served = seen.served_early or self._is_served(queue)
        if row.reads_config:
            seen.config_late = transport.config_read(0, size).hex()

    def _supported(self, row: DriverRow) -> int:
        """The feature bits that the driver knows what to do with."""
        if not row.version_1:
            return 0
        supports = MODERN if row.access_platform else mask([FeatureBit.VERSION_1])
        if row.packed:
            supports |= mask([FeatureBit.RING_PACKED])
        return supports | mask(self.cell.config.device_row.accepts)

    def _kick_first(self, driver: Driver, probe: Probe, seen: Seen) -> None:
        queue = driver.queue(probe.queue)
        self._offer(queue, driver.memory, probe)
        driver.transport.notify(queue.index)
        seen.served = self._is_served(queue)
        seen.status = int(driver.transport.status)

    def _memory(self, accepts_platform: bool) -> GuestMemory:
        """A driver that accepted the bit uses the IOMMU where it programs one."""
        mapped = self.site.mapped
        memory = mapped if mapped and accepts_platform else self.site.memory
        memory.give_back()
        return memory

    def _offer(self, queue: Queue, memory: GuestMemory, probe: Probe) -> None:
        chain = []
        if probe.data:
            chain.append(Buffer(memory.put(probe.data), len(probe.data)))
        if probe.room:
            address = memory.put(FILLER * probe.room)
            self._answer = memory, address, probe.room
            chain.append(Buffer(address, probe.room, writable=True))
        queue.add(chain)

    def _is_served(self, queue: Queue) -> bool:
        """Whether the buffer is used, and written where there is room for an answer.

        Each look is a turn of QEMU's main loop. QEMU also uses a buffer that its IOMMU
        did not let it write.
        """
        looks = PATIENCE
        if self.site.backend:
            self.site.backend.settle()
        elif self.cell.config.device_row.vhost_user:
            looks = PROGRAM_PATIENCE
        if not any(queue.take_used() for _ in range(looks * self.patience)):
            return False
        if self._answer is None:
            return True
        memory, address, room = self._answer
        return memory.read(address, room) != FILLER * room

    def _ask(self, backend: Backend, seen: Seen) -> None:
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
