"""Virtio over PCI without the legacy interface (virtio 1.3, section 4.1)."""

import struct
from dataclasses import dataclass

from qap.hw.pci import CAPABILITY_VENDOR, Function
from qap.machine import qtest_command as command
from qap.machine.qtest_command import QtestCommand
from qap.oracle.status import Status
from qap.virtio.config_space import ConfigSpace
from qap.virtio.registers import MEMORY, Registers
from qap.virtio.transport import QueueAddresses, Transport, VirtioError

# 4.1.2: vendor, and what a modern device ID adds to the device type.
VENDOR_ID = 0x1AF4
MODERN_DEVICE_ID = 0x1040
LEGACY_DEVICE_IDS = {0x1000: 1, 0x1001: 2, 0x1002: 5, 0x1003: 3, 0x1004: 8, 0x1005: 4, 0x1009: 9}

# 4.1.4: cfg_type.
COMMON_CFG = 1
NOTIFY_CFG = 2
ISR_CFG = 3
DEVICE_CFG = 4

# 4.1.4.3: offsets in the common configuration.
DEVICE_FEATURE_SELECT = 0x00
DEVICE_FEATURE = 0x04
DRIVER_FEATURE_SELECT = 0x08
DRIVER_FEATURE = 0x0C
DEVICE_STATUS = 0x14
CONFIG_GENERATION = 0x15
QUEUE_SELECT = 0x16
QUEUE_SIZE = 0x18
QUEUE_MSIX_VECTOR = 0x1A
QUEUE_ENABLE = 0x1C
QUEUE_NOTIFY_OFF = 0x1E
QUEUE_DESC = 0x20
QUEUE_DRIVER = 0x28
QUEUE_DEVICE = 0x30
QUEUE_RESET = 0x3A

_CAP = struct.Struct("<BBBBBBBBII")


@dataclass(frozen=True)
class VirtioRegion:
    """A part of a BAR that a virtio capability points to (4.1.4).

    Attributes:
        address: in memory.
        length: in bytes.
        multiplier: notify_off_multiplier (4.1.4.4); 0 for other regions.
    """

    address: int
    length: int
    multiplier: int = 0


class PciModern(Transport):
    """A virtio PCI function driven through its modern regions.

    Args:
        function: its BARs are mapped here.
    Raises:
        VirtioError: it is no virtio device, or lacks a region that 4.1.4 requires.
    """

    def __init__(self, function: Function) -> None:
        self.function = function
        self.qtest = function.qtest
        if function.vendor_id != VENDOR_ID:
            raise VirtioError(f"{function} has vendor {function.vendor_id:#06x}, not virtio's")
        self.bars = function.map_bars()
        self.regions = self._find_regions()
        for needed in (COMMON_CFG, NOTIFY_CFG, ISR_CFG):
            if needed not in self.regions:
                raise VirtioError(f"{function} has no virtio region of cfg_type {needed}")
        self._common = self.regions[COMMON_CFG].address
        self._notify: dict[int, int] = {}

    def __str__(self) -> str:
        return str(self.function)

    def _find_regions(self) -> dict[int, VirtioRegion]:
        # 4.1.4.1: of several capabilities with a type, use the first whose BAR is mapped.
        regions: dict[int, VirtioRegion] = {}
        for capability in self.function.capabilities():
            if capability.id != CAPABILITY_VENDOR:
                continue
            raw = self.function.config_bytes(capability.offset, 20)
            cfg_type, bar, offset, length = (_CAP.unpack_from(raw)[i] for i in (3, 4, 8, 9))
            multiplier = struct.unpack_from("<I", raw, 16)[0] if cfg_type == NOTIFY_CFG else 0
            if bar in self.bars and cfg_type not in regions:
                regions[cfg_type] = VirtioRegion(
                    self.bars[bar].address + offset, length, multiplier
                )
        return regions

    def registers(self, cfg_type: int = COMMON_CFG) -> Registers:
        """The registers of a region, raw.

        Raises:
            VirtioError: the device has no such region.
        """
        if cfg_type not in self.regions:
            raise VirtioError(f"{self} has no virtio region of cfg_type {cfg_type}")
        return Registers(self.qtest, self.regions[cfg_type].address, MEMORY)

    @property
    def device_type(self) -> int:
        device_id = self.function.device_id
        if device_id >= MODERN_DEVICE_ID:
            return device_id - MODERN_DEVICE_ID
        if device_id not in LEGACY_DEVICE_IDS:
            raise VirtioError(f"{self.function} has device id {device_id:#06x}, not virtio's")
        return LEGACY_DEVICE_IDS[device_id]

    @property
    def device_features(self) -> int:
        return self._features(DEVICE_FEATURE_SELECT, DEVICE_FEATURE)

    @property
    def driver_features(self) -> int:
        return self._features(DRIVER_FEATURE_SELECT, DRIVER_FEATURE)

    def _features(self, select: int, value: int) -> int:
        commands: list[QtestCommand[int | None]] = []
        for half in (0, 1):
            commands.append(command.writel(self._common + select, half))
            commands.append(command.readl(self._common + value))
        _, low, _, high = self.qtest.run_all(commands)
        assert low is not None and high is not None
        return high << 32 | low

    def set_driver_features(self, features: int) -> None:
        commands = []
        for half in (0, 1):
            word = features >> 32 * half & 0xFFFF_FFFF
            commands.append(command.writel(self._common + DRIVER_FEATURE_SELECT, half))
            commands.append(command.writel(self._common + DRIVER_FEATURE, word))
        self.qtest.run_all(commands)

    def device_feature_word(self, index: int) -> int:
        select = command.writel(self._common + DEVICE_FEATURE_SELECT, index)
        read = command.readl(self._common + DEVICE_FEATURE)
        return self.qtest.run_all([select, read])[1] or 0

    def set_driver_feature_word(self, index: int, word: int) -> None:
        select = command.writel(self._common + DRIVER_FEATURE_SELECT, index)
        self.qtest.run_all([select, command.writel(self._common + DRIVER_FEATURE, word)])

    @property
    def status(self) -> Status:
        return Status(self.qtest.readb(self._common + DEVICE_STATUS))

    def set_status(self, status: Status) -> None:
        self.qtest.writeb(self._common + DEVICE_STATUS, status)

    @property
    def config_generation(self) -> int | None:
        return self.qtest.readb(self._common + CONFIG_GENERATION)

    def config_read(self, offset: int, size: int) -> bytes:
        return self.settled(lambda: self._config().read(offset, size))

    def config_write(self, offset: int, data: bytes) -> None:
        self._config().write(offset, data)

    def _config(self) -> ConfigSpace:
        region = self.regions.get(DEVICE_CFG)
        if region is None:
            raise VirtioError(f"{self} has no configuration")
        return ConfigSpace(self.qtest, region.address, region.length, MEMORY)

    def _select(self, index: int) -> QtestCommand[None]:
        return command.writew(self._common + QUEUE_SELECT, index)

    def _queue_word(self, index: int, register: int) -> int:
        _, value = self.qtest.run_all([self._select(index), command.readw(self._common + register)])
        assert value is not None
        return value

    def queue_max(self, index: int) -> int:
        return self._queue_word(index, QUEUE_SIZE)

    def queue_enabled(self, index: int) -> bool:
        return bool(self._queue_word(index, QUEUE_ENABLE))

    def enable_queue(self, index: int, queue: QueueAddresses) -> None:
        # Known now, a notification is a single write.
        self._notify_address(index)
        commands = [self._select(index), command.writew(self._common + QUEUE_SIZE, queue.size)]
        for register, address in (
            (QUEUE_DESC, queue.desc),
            (QUEUE_DRIVER, queue.driver),
            (QUEUE_DEVICE, queue.device),
        ):
            # 4.1.3.1: 64-bit fields are written as two 32-bit halves.
            at = self._common + register
            commands.append(command.writel(at, address & 0xFFFF_FFFF))
            commands.append(command.writel(at + 4, address >> 32))
        commands.append(command.writew(self._common + QUEUE_ENABLE, 1))
        self.qtest.run_all(commands)

    def queue_reset(self, index: int) -> None:
        commands = [self._select(index), command.writew(self._common + QUEUE_RESET, 1)]
        self.qtest.run_all(commands)
        self.await_queue_reset(index, lambda: self._queue_word(index, QUEUE_RESET))

    def set_queue_vector(self, index: int, vector: int) -> None:
        """Let a queue interrupt with an MSI-X vector (4.1.5.1.2).

        Raises:
            VirtioError: the device can't use that vector.
        """
        register = self._common + QUEUE_MSIX_VECTOR
        commands = [self._select(index), command.writew(register, vector)]
        self.qtest.run_all(commands)
        if self.qtest.readw(register) != vector:
            raise VirtioError(f"{self.function} can't use MSI-X vector {vector}")

    def _notify_address(self, index: int) -> int:
        if index not in self._notify:
            region = self.regions[NOTIFY_CFG]
            off = self._queue_word(index, QUEUE_NOTIFY_OFF)
            self._notify[index] = region.address + off * region.multiplier
        return self._notify[index]

    def notify(self, index: int) -> None:
        self.qtest.writew(self._notify_address(index), index)

    def isr_status(self) -> int:
        return self.qtest.readb(self.regions[ISR_CFG].address)
