"""Virtio functions of an s390x machine, by PCI instructions (virtio 1.3, 4.1; `qap.hw.zpci`).

On the legacy interface there are no queues: only what a driver does and reads before those.
"""

import struct

from qap.hw.pci import (
    CAPABILITIES_POINTER,
    CAPABILITY_VENDOR,
    COMMAND,
    COMMAND_BUS_MASTER,
    COMMAND_IO_SPACE,
    COMMAND_MEMORY_SPACE,
)
from qap.hw.zpci import ZpciAccess, ZpciFunction
from qap.oracle.status import Status
from qap.virtio import pci_legacy, pci_modern
from qap.virtio.config_space import natural
from qap.virtio.transport import QueueAddresses, Transport, VirtioError

LEGACY_BAR = 0
CAPABILITY_SIZE = 16
LAST_CFG_TYPE = pci_modern.DEVICE_CFG


class ZpciRegions:
    """A function's modern regions (4.1.4), with single accesses.

    Args:
        function: enabled.

    Attributes:
        places: the BAR and the offset in it, by cfg_type.
        multiplier: notify_off_multiplier (4.1.4.4).
    """

    def __init__(self, function: ZpciFunction) -> None:
        self.function = function
        self.places: dict[int, tuple[int, int]] = {}
        self.multiplier = 0
        at = function.config_read(CAPABILITIES_POINTER, 1)
        while at:
            raw = function.config_bytes(at, CAPABILITY_SIZE)
            if raw[0] == CAPABILITY_VENDOR and raw[3] <= LAST_CFG_TYPE:
                (offset,) = struct.unpack_from("<I", raw, 8)
                self.places[raw[3]] = (raw[4], offset)
                if raw[3] == pci_modern.NOTIFY_CFG:
                    self.multiplier = function.config_read(at + CAPABILITY_SIZE, 4)
            at = raw[1]

    def read(self, region: int, register: int, size: int) -> int:
        """Read a register of `size` bytes of the region with this cfg_type."""
        bar, offset = self.places[region]
        return self.function.run_all([ZpciAccess(bar, offset + register, size)])[0]

    def write(self, region: int, register: int, size: int, value: int) -> None:
        """Write a register; see `read`."""
        bar, offset = self.places[region]
        self.function.run_all([ZpciAccess(bar, offset + register, size, value)])

    def common(self, register: int, size: int, value: int) -> None:
        """Write a register of the common configuration (4.1.4.3)."""
        self.write(pci_modern.COMMON_CFG, register, size, value)

    def common_value(self, register: int, size: int) -> int:
        """Read a register of the common configuration."""
        return self.read(pci_modern.COMMON_CFG, register, size)


class VirtioZpci(Transport):
    """A virtio function of an s390x machine.

    Args:
        function: enabled.
        legacy: use the legacy interface (4.1.4.10); MSI-X must be off.
    """

    def __init__(self, function: ZpciFunction, *, legacy: bool) -> None:
        self.legacy = legacy
        self.function = function
        self.qtest = function.cpu.qtest
        self._regions = ZpciRegions(function)
        enabled = COMMAND_IO_SPACE | COMMAND_MEMORY_SPACE | COMMAND_BUS_MASTER
        function.config_write(COMMAND, 2, enabled)

    def __str__(self) -> str:
        return str(self.function)

    @property
    def device_type(self) -> int:
        device_id = self.function.device_id
        return pci_modern.LEGACY_DEVICE_IDS.get(device_id, device_id - pci_modern.MODERN_DEVICE_ID)

    def _read(self, legacy: int, modern: int, size: int) -> int:
        if self.legacy:
            return self.function.run_all([ZpciAccess(LEGACY_BAR, legacy, size)])[0]
        return self._regions.common_value(modern, size)

    def _write(self, legacy: int, modern: int, size: int, value: int) -> None:
        if self.legacy:
            self.function.run_all([ZpciAccess(LEGACY_BAR, legacy, size, value)])
        else:
            self._regions.common(modern, size, value)

    @property
    def status(self) -> Status:
        return Status(self._read(pci_legacy.DEVICE_STATUS, pci_modern.DEVICE_STATUS, 1))

    def set_status(self, status: Status) -> None:
        self._write(pci_legacy.DEVICE_STATUS, pci_modern.DEVICE_STATUS, 1, status)

    def reset(self) -> None:
        """Reset the device; QEMU is done when the status is written.

        The status is not read: what uses the modern regions after a reset is a modern driver.
        """
        self.set_status(Status(0))

    @property
    def device_features(self) -> int:
        if self.legacy:
            return self.device_feature_word(0)
        return self.device_feature_word(1) << 32 | self.device_feature_word(0)

    def device_feature_word(self, index: int) -> int:
        if not self.legacy:
            self._regions.common(pci_modern.DEVICE_FEATURE_SELECT, 4, index)
        return self._read(pci_legacy.DEVICE_FEATURES, pci_modern.DEVICE_FEATURE, 4)

    @property
    def driver_features(self) -> int:
        if self.legacy:
            return self.function.run_all([ZpciAccess(LEGACY_BAR, pci_legacy.DRIVER_FEATURES, 4)])[0]
        words = []
        for index in (0, 1):
            self._regions.common(pci_modern.DRIVER_FEATURE_SELECT, 4, index)
            words.append(self._regions.common_value(pci_modern.DRIVER_FEATURE, 4))
        return words[1] << 32 | words[0]

    def set_driver_features(self, features: int) -> None:
        if self.legacy:
            self.set_driver_feature_word(0, self.legacy_word(features))
            return
        for index in (0, 1):
            self.set_driver_feature_word(index, features >> 32 * index & 0xFFFF_FFFF)

    def set_driver_feature_word(self, index: int, word: int) -> None:
        if not self.legacy:
            self._regions.common(pci_modern.DRIVER_FEATURE_SELECT, 4, index)
        self._write(pci_legacy.DRIVER_FEATURES, pci_modern.DRIVER_FEATURE, 4, word)

    @property
    def config_generation(self) -> int | None:
        if self.legacy:
            return None
        return self._regions.common_value(pci_modern.CONFIG_GENERATION, 1)

    def config_read(self, offset: int, size: int) -> bytes:
        return self.settled(lambda: self._config_read(offset, size))

    def _config_read(self, offset: int, size: int) -> bytes:
        bar, start = self._config
        widths = list(natural(offset, size))
        loads = [ZpciAccess(bar, start + at, width) for at, width in widths]
        values = self.function.run_all(loads)
        return b"".join(
            value.to_bytes(width, "little")
            for value, (_, width) in zip(values, widths, strict=True)
        )

    def config_write(self, offset: int, data: bytes) -> None:
        bar, start = self._config
        stores = [
            ZpciAccess(
                bar, start + at, width, int.from_bytes(data[at - offset :][:width], "little")
            )
            for at, width in natural(offset, len(data))
        ]
        self.function.run_all(stores)

    @property
    def _config(self) -> tuple[int, int]:
        """The BAR, and the offset in it, of device configuration."""
        if self.legacy:
            return LEGACY_BAR, pci_legacy.CONFIG_WITHOUT_MSI_X
        if pci_modern.DEVICE_CFG not in self._regions.places:
            raise VirtioError(f"{self} has no configuration")
        return self._regions.places[pci_modern.DEVICE_CFG]

    def _queue_word(self, index: int, register: int) -> int:
        if self.legacy:
            raise VirtioError(f"no driver here has queues of the legacy interface of {self}")
        self._regions.common(pci_modern.QUEUE_SELECT, 2, index)
        return self._regions.common_value(register, 2)

    def queue_max(self, index: int) -> int:
        return self._queue_word(index, pci_modern.QUEUE_SIZE)

    def queue_enabled(self, index: int) -> bool:
        return bool(self._queue_word(index, pci_modern.QUEUE_ENABLE))

    def enable_queue(self, index: int, queue: QueueAddresses) -> None:
        self._queue_word(index, pci_modern.QUEUE_SIZE)
        self._regions.common(pci_modern.QUEUE_SIZE, 2, queue.size)
        for register, address in (
            (pci_modern.QUEUE_DESC, queue.desc),
            (pci_modern.QUEUE_DRIVER, queue.driver),
            (pci_modern.QUEUE_DEVICE, queue.device),
        ):
            # 4.1.3.1: 64-bit fields are written as two 32-bit halves.
            self._regions.common(register, 4, address & 0xFFFF_FFFF)
            self._regions.common(register + 4, 4, address >> 32)
        self._regions.common(pci_modern.QUEUE_ENABLE, 2, 1)

    def notify(self, index: int) -> None:
        off = self._queue_word(index, pci_modern.QUEUE_NOTIFY_OFF)
        self._regions.write(pci_modern.NOTIFY_CFG, off * self._regions.multiplier, 2, index)

    def isr_status(self) -> int:
        if self.legacy:
            return self.function.run_all([ZpciAccess(LEGACY_BAR, pci_legacy.ISR_STATUS, 1)])[0]
        return self._regions.read(pci_modern.ISR_CFG, 0, 1)
