"""Virtio over PCI through the legacy interface (virtio 1.3, section 4.1.4.10)."""

from qap.hw.pci import CAPABILITY_MSI_X, MSI_X_ENABLE, Function, PciError
from qap.machine import qtest_command as command
from qap.machine.qtest_command import QtestCommand
from qap.oracle.status import Status
from qap.virtio.config_space import ConfigSpace
from qap.virtio.pci_modern import VENDOR_ID
from qap.virtio.registers import PORTS, Registers
from qap.virtio.transport import QueueAddresses, Transport, VirtioError

# 4.1.2: the device IDs of transitional and of legacy devices.
DEVICE_IDS = range(0x1000, 0x1040)
# 4.1.2.3, and PCI 6.2.4: offset of their device type.
SUBSYSTEM_ID = 0x2E

# 4.1.4.10: offsets in BAR0. While MSI-X is enabled there are two vector registers, and the
# configuration comes after them.
DEVICE_FEATURES = 0x00
DRIVER_FEATURES = 0x04
QUEUE_ADDRESS = 0x08
QUEUE_SIZE = 0x0C
QUEUE_SELECT = 0x0E
QUEUE_NOTIFY = 0x10
DEVICE_STATUS = 0x12
ISR_STATUS = 0x13
CONFIG_WITHOUT_MSI_X = 0x14
QUEUE_MSIX_VECTOR = 0x16
CONFIG_WITH_MSI_X = 0x18


class PciLegacy(Transport):
    """A transitional or legacy virtio PCI function driven through I/O ports.

    The device's configuration is in the guest's byte order, which is little-endian where
    there are I/O ports.

    Args:
        function: its BARs are mapped here.
    Raises:
        VirtioError: it has no legacy interface.
    """

    legacy = True

    def __init__(self, function: Function) -> None:
        self.function = function
        self.qtest = function.qtest
        vendor, device = function.vendor_id, function.device_id
        if vendor != VENDOR_ID or device not in DEVICE_IDS:
            raise VirtioError(f"{function} is {vendor:04x}:{device:04x}, no legacy virtio device")
        self.bars = function.map_bars()
        if 0 not in self.bars or not self.bars[0].io:
            raise VirtioError(f"{function} has no I/O ports in BAR0 for a legacy interface")
        self._ports = self.bars[0].address
        try:
            self._msi_x: int | None = function.capability(CAPABILITY_MSI_X).offset
        except PciError:
            self._msi_x = None

    def __str__(self) -> str:
        return str(self.function)

    @property
    def registers(self) -> Registers:
        """The registers in BAR0, raw."""
        return Registers(self.qtest, self._ports, PORTS)

    @property
    def device_type(self) -> int:
        return self.function.config_read(SUBSYSTEM_ID, 2)

    @property
    def device_features(self) -> int:
        return self.qtest.inl(self._ports + DEVICE_FEATURES)

    @property
    def driver_features(self) -> int:
        return self.qtest.inl(self._ports + DRIVER_FEATURES)

    def set_driver_features(self, features: int) -> None:
        self.qtest.outl(self._ports + DRIVER_FEATURES, self.legacy_word(features))

    def device_feature_word(self, index: int) -> int:
        return 0 if index else self.device_features

    def set_driver_feature_word(self, index: int, word: int) -> None:
        if index:
            raise VirtioError(f"the legacy interface has no feature word {index}")
        self.set_driver_features(word)

    @property
    def status(self) -> Status:
        return Status(self.qtest.inb(self._ports + DEVICE_STATUS))

    def set_status(self, status: Status) -> None:
        self.qtest.outb(self._ports + DEVICE_STATUS, status)

    def config_read(self, offset: int, size: int) -> bytes:
        return self.settled(lambda: self._config().read(offset, size))

    def config_write(self, offset: int, data: bytes) -> None:
        self._config().write(offset, data)

    @property
    def msi_x_enabled(self) -> bool:
        """Whether MSI-X is on, so that the vector registers are there."""
        if self._msi_x is None:
            return False
        return bool(self.function.config_read(self._msi_x + 2, 2) & MSI_X_ENABLE)

    def _config(self) -> ConfigSpace:
        at = CONFIG_WITH_MSI_X if self.msi_x_enabled else CONFIG_WITHOUT_MSI_X
        return ConfigSpace(self.qtest, self._ports + at, self.bars[0].size - at, PORTS)

    def _select(self, index: int) -> QtestCommand[None]:
        return command.outw(self._ports + QUEUE_SELECT, index)

    def _queue(self, index: int, register: QtestCommand[int]) -> int:
        _, value = self.qtest.run_all([self._select(index), register])
        assert value is not None
        return value

    def queue_max(self, index: int) -> int:
        return self._queue(index, command.inw(self._ports + QUEUE_SIZE))

    def queue_enabled(self, index: int) -> bool:
        return bool(self._queue(index, command.inl(self._ports + QUEUE_ADDRESS)))

    def enable_queue(self, index: int, queue: QueueAddresses) -> None:
        """Tell the device the address of a queue, which enables it.

        Raises:
            VirtioError: the queue doesn't have the device's size or the legacy layout.
        """
        entries = self.queue_max(index)
        if queue.size != entries:
            raise VirtioError(f"queue {index} of {self} has {entries} entries, not {queue.size}")
        write = command.outl(self._ports + QUEUE_ADDRESS, queue.page_frame())
        self.qtest.run_all([self._select(index), write])

    def set_queue_vector(self, index: int, vector: int) -> None:
        """Let a queue interrupt with an MSI-X vector (4.1.5.1.2).

        Raises:
            VirtioError: MSI-X is not enabled, or the device can't use that vector.
        """
        if not self.msi_x_enabled:
            raise VirtioError(f"MSI-X of {self} is not enabled")
        register = self._ports + QUEUE_MSIX_VECTOR
        self.qtest.run_all([self._select(index), command.outw(register, vector)])
        if self.qtest.inw(register) != vector:
            raise VirtioError(f"{self} can't use MSI-X vector {vector}")

    def notify(self, index: int) -> None:
        self.qtest.outw(self._ports + QUEUE_NOTIFY, index)

    def isr_status(self) -> int:
        return self.qtest.inb(self._ports + ISR_STATUS)
