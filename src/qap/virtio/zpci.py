"""Virtio functions of an s390x machine, by PCI instructions (virtio 1.3, 4.1; `qap.hw.zpci`).

No queues: these are the steps up to FEATURES_OK, and what a driver reads on the way.
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
from qap.virtio.transport import Transport

LEGACY_BAR = 0
CAPABILITY_SIZE = 16
LAST_CFG_TYPE = pci_modern.DEVICE_CFG


class ZpciRegions:
    """A function's modern regions (4.1.4), with single accesses.

    Args:
        function: enabled.

    Attributes:
        places: the BAR and the offset in it, by cfg_type.
    """

    def __init__(self, function: ZpciFunction) -> None:
        self.function = function
        self.places: dict[int, tuple[int, int]] = {}
        at = function.config_read(CAPABILITIES_POINTER, 1)
        while at:
            raw = function.config_bytes(at, CAPABILITY_SIZE)
            if raw[0] == CAPABILITY_VENDOR and raw[3] <= LAST_CFG_TYPE:
                (offset,) = struct.unpack_from("<I", raw, 8)
                self.places[raw[3]] = (raw[4], offset)
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


class ZpciNegotiation:
    """The part of `qap.virtio.transport.Transport` that comes before queues.

    Args:
        function: enabled.
        legacy: use the legacy interface (4.1.4.10); MSI-X must be off.
    """

    def __init__(self, function: ZpciFunction, *, legacy: bool) -> None:
        self.legacy = legacy
        self.function = function
        self._regions = ZpciRegions(function)
        enabled = COMMAND_IO_SPACE | COMMAND_MEMORY_SPACE | COMMAND_BUS_MASTER
        function.config_write(COMMAND, 2, enabled)

    def _write(self, legacy: int, modern: int, size: int, value: int) -> None:
        if self.legacy:
            self.function.run_all([ZpciAccess(LEGACY_BAR, legacy, size, value)])
        else:
            self._regions.common(modern, size, value)

    def set_status(self, status: Status) -> None:
        """Write the status field."""
        self._write(pci_legacy.DEVICE_STATUS, pci_modern.DEVICE_STATUS, 1, status)

    def reset(self) -> None:
        """Reset the device; QEMU is done when the status is written."""
        self.set_status(Status(0))

    @property
    def device_features(self) -> int:
        """The features that the device offers on the modern interface."""
        words = []
        for index in (0, 1):
            self._regions.common(pci_modern.DEVICE_FEATURE_SELECT, 4, index)
            words.append(self._regions.read(pci_modern.COMMON_CFG, pci_modern.DEVICE_FEATURE, 4))
        return words[1] << 32 | words[0]

    def set_driver_features(self, features: int) -> None:
        """Write the features that a legacy driver accepts; raises VirtioError above bit 31."""
        word = Transport.legacy_word(features)
        self.function.run_all([ZpciAccess(LEGACY_BAR, pci_legacy.DRIVER_FEATURES, 4, word)])

    def set_driver_feature_word(self, index: int, word: int) -> None:
        """Write 32 of the features that a modern driver accepts."""
        self._regions.common(pci_modern.DRIVER_FEATURE_SELECT, 4, index)
        self._regions.common(pci_modern.DRIVER_FEATURE, 4, word)

    def config_read(self, offset: int, size: int) -> bytes:
        """A range of device configuration (2.5), with accesses of at most 4 bytes."""
        bar, start = self._config
        widths = list(natural(offset, size))
        loads = [ZpciAccess(bar, start + at, width) for at, width in widths]
        values = self.function.run_all(loads)
        return b"".join(
            value.to_bytes(width, "little")
            for value, (_, width) in zip(values, widths, strict=True)
        )

    def config_write(self, offset: int, data: bytes) -> None:
        """Write a range of device configuration; see `config_read`."""
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
        return self._regions.places[pci_modern.DEVICE_CFG]
