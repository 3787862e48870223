"""Virtio over MMIO (virtio 1.3, section 4.2): version 2, and version 1, which is legacy."""

from qap.machine import qtest_command as command
from qap.machine.qtest import Qtest
from qap.machine.qtest_command import QtestCommand
from qap.oracle.status import Status
from qap.virtio.config_space import ConfigSpace
from qap.virtio.registers import MEMORY, Registers
from qap.virtio.transport import LEGACY_PAGE, QueueAddresses, Transport, VirtioError

# 4.2.2: offsets of the registers, each of 32 bits.
MAGIC_VALUE = 0x000
VERSION = 0x004
DEVICE_ID = 0x008
DEVICE_FEATURES = 0x010
DEVICE_FEATURES_SEL = 0x014
DRIVER_FEATURES = 0x020
DRIVER_FEATURES_SEL = 0x024
QUEUE_SEL = 0x030
QUEUE_SIZE_MAX = 0x034
QUEUE_SIZE = 0x038
QUEUE_READY = 0x044
QUEUE_NOTIFY = 0x050
INTERRUPT_STATUS = 0x060
INTERRUPT_ACK = 0x064
STATUS = 0x070
QUEUE_DESC_LOW = 0x080
QUEUE_DRIVER_LOW = 0x090
QUEUE_DEVICE_LOW = 0x0A0
QUEUE_RESET = 0x0C0
CONFIG_GENERATION = 0x0FC
CONFIG = 0x100

# 4.2.4: registers that only version 1 has.
GUEST_PAGE_SIZE = 0x028
QUEUE_ALIGN = 0x03C
QUEUE_PFN = 0x040

MAGIC = 0x74726976
LEGACY_VERSION = 1
MODERN_VERSION = 2

# QEMU's microvm: 24 slots with a second I/O APIC, which is the default; 8 without.
MICROVM_BASE = 0xFEB0_0000
MICROVM_SLOTS = 24
SLOT_SIZE = 0x200


class Mmio(Transport):
    """A virtio device behind memory-mapped registers, on a little-endian machine.

    Args:
        base: address of its registers.
    Raises:
        VirtioError: there is no virtio device of version 1 or 2 at `base`.

    Attributes:
        version: 1, which is legacy, or 2.
    """

    def __init__(self, qtest: Qtest, base: int) -> None:
        self.qtest = qtest
        self.base = base
        self._driver_features = 0
        magic, self.version = qtest.run_all([self._read(MAGIC_VALUE), self._read(VERSION)])
        if magic != MAGIC or self.version not in (LEGACY_VERSION, MODERN_VERSION):
            raise VirtioError(f"no virtio device is at {base:#x}")
        self.legacy = self.version == LEGACY_VERSION
        if not self.device_type:
            raise VirtioError(f"the virtio slot at {base:#x} is empty")
        self._config = ConfigSpace(qtest, base + CONFIG, SLOT_SIZE - CONFIG, MEMORY)

    def __str__(self) -> str:
        return f"the MMIO device at {self.base:#x}"

    @property
    def registers(self) -> Registers:
        """Its registers, raw."""
        return Registers(self.qtest, self.base, MEMORY)

    def _read(self, register: int) -> QtestCommand[int]:
        return command.readl(self.base + register)

    def _write(self, register: int, value: int) -> QtestCommand[None]:
        return command.writel(self.base + register, value)

    def _selected(self, select: int, index: int, register: int) -> int:
        _, value = self.qtest.run_all([self._write(select, index), self._read(register)])
        assert value is not None
        return value

    @property
    def device_type(self) -> int:
        return self.qtest.run(self._read(DEVICE_ID))

    @property
    def device_features(self) -> int:
        low = self.device_feature_word(0)
        return low if self.legacy else self.device_feature_word(1) << 32 | low

    @property
    def driver_features(self) -> int:
        """What was written through this object since the last reset; the register is write-only."""
        return self._driver_features

    def set_driver_features(self, features: int) -> None:
        if self.legacy:
            words = [self.legacy_word(features)]
        else:
            words = [features & 0xFFFF_FFFF, features >> 32]
        commands = []
        for half, word in enumerate(words):
            commands += [self._write(DRIVER_FEATURES_SEL, half), self._write(DRIVER_FEATURES, word)]
        self.qtest.run_all(commands)
        self._driver_features = features

    def device_feature_word(self, index: int) -> int:
        return self._selected(DEVICE_FEATURES_SEL, index, DEVICE_FEATURES)

    def set_driver_feature_word(self, index: int, word: int) -> None:
        select = self._write(DRIVER_FEATURES_SEL, index)
        self.qtest.run_all([select, self._write(DRIVER_FEATURES, word)])
        if index < 2:
            kept = self._driver_features & ~(0xFFFF_FFFF << 32 * index)
            self._driver_features = kept | word << 32 * index

    @property
    def status(self) -> Status:
        return Status(self.qtest.run(self._read(STATUS)))

    def set_status(self, status: Status) -> None:
        self.qtest.run(self._write(STATUS, status))
        if not status:
            self._driver_features = 0

    @property
    def config_generation(self) -> int | None:
        return None if self.legacy else self.qtest.run(self._read(CONFIG_GENERATION))

    def config_read(self, offset: int, size: int) -> bytes:
        return self.settled(lambda: self._config.read(offset, size))

    def config_write(self, offset: int, data: bytes) -> None:
        self._config.write(offset, data)

    def queue_max(self, index: int) -> int:
        return self._selected(QUEUE_SEL, index, QUEUE_SIZE_MAX)

    def queue_enabled(self, index: int) -> bool:
        register = QUEUE_PFN if self.legacy else QUEUE_READY
        return bool(self._selected(QUEUE_SEL, index, register))

    def enable_queue(self, index: int, queue: QueueAddresses) -> None:
        """Tell the device the addresses of a queue and enable it.

        Version 1, too, takes queues with fewer entries than `queue_max` (4.2.4).

        Raises:
            VirtioError: the queue has more entries, or not the legacy layout for version 1.
        """
        most = self.queue_max(index)
        if queue.size > most:
            raise VirtioError(f"queue {index} of {self} has {most} entries, not {queue.size}")
        commands = [self._write(QUEUE_SEL, index), self._write(QUEUE_SIZE, queue.size)]
        if self.legacy:
            commands.append(self._write(GUEST_PAGE_SIZE, LEGACY_PAGE))
            commands.append(self._write(QUEUE_ALIGN, LEGACY_PAGE))
            commands.append(self._write(QUEUE_PFN, queue.page_frame()))
        else:
            for low, address in (
                (QUEUE_DESC_LOW, queue.desc),
                (QUEUE_DRIVER_LOW, queue.driver),
                (QUEUE_DEVICE_LOW, queue.device),
            ):
                commands.append(self._write(low, address & 0xFFFF_FFFF))
                commands.append(self._write(low + 4, address >> 32))
            commands.append(self._write(QUEUE_READY, 1))
        self.qtest.run_all(commands)

    def queue_reset(self, index: int) -> None:
        if self.legacy:
            super().queue_reset(index)
        self.qtest.run_all([self._write(QUEUE_SEL, index), self._write(QUEUE_RESET, 1)])
        self.await_queue_reset(index, lambda: self._selected(QUEUE_SEL, index, QUEUE_RESET))

    def notify(self, index: int) -> None:
        self.qtest.run(self._write(QUEUE_NOTIFY, index))

    @property
    def interrupt_status(self) -> int:
        """InterruptStatus, with the bits of `isr_status`; they stay set until acknowledged."""
        return self.qtest.run(self._read(INTERRUPT_STATUS))

    def acknowledge(self, pending: int) -> None:
        """Write InterruptACK: these bits of InterruptStatus are handled."""
        self.qtest.run(self._write(INTERRUPT_ACK, pending))

    def isr_status(self) -> int:
        pending = self.interrupt_status
        self.acknowledge(pending)
        return pending


def mmio_slots(
    qtest: Qtest, base: int = MICROVM_BASE, slots: int = MICROVM_SLOTS, size: int = SLOT_SIZE
) -> list[Mmio]:
    """The devices in a row of slots, by default those of microvm; lowest address first."""
    places = [base + size * slot for slot in range(slots)]
    words = qtest.run_all(
        [command.readl(at + register) for at in places for register in (MAGIC_VALUE, DEVICE_ID)]
    )
    there = zip(places, words[::2], words[1::2], strict=True)
    return [Mmio(qtest, at) for at, magic, device_id in there if magic == MAGIC and device_id]
