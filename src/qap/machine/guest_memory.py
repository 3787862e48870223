"""Guest memory for a driver's queues and buffers."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from qap.host.errors import QapError
from qap.machine import qtest_command as command
from qap.machine.qtest import Qtest

MIB = 1 << 20
LOW_END = 16 * MIB
PAGE = 4096


@dataclass
class GuestMemory:
    """A range of guest RAM, allocated from its start and only freed as a whole.

    Addresses are as the device is to see them: guest physical ones unless an IOMMU is
    programmed to map the range elsewhere.

    Args:
        base: first guest physical address, above what firmware and legacy devices use on a PC.
        size: in bytes.
        iova: the first address as the device sees it, where that is another one.
    """

    qtest: Qtest
    base: int = LOW_END
    size: int = 64 * MIB
    iova: int | None = None
    _offset: int = field(init=False)
    _next: int = field(init=False)

    def __post_init__(self) -> None:
        self._next = self.base
        self._offset = 0 if self.iova is None else self.iova - self.base

    def physical(self, address: int) -> int:
        """The guest physical address of what the device sees at `address`."""
        return address - self._offset

    def take(self, size: int, alignment: int = 16) -> int:
        """The address of `size` zeroed bytes.

        Raises:
            QapError: there are not that many left.
        """
        address = -(-self._next // alignment) * alignment
        if address + size > self.base + self.size:
            raise QapError(f"no {size} bytes are left of {self.size} in guest memory")
        self._next = address + size
        self._clear(address, size)
        return address + self._offset

    def _clear(self, physical: int, size: int) -> None:
        self.qtest.memset(physical, size, 0)

    def give_back(self) -> None:
        """Free all of it; nothing that was taken may still be in use."""
        self._next = self.base

    def put(self, data: bytes) -> int:
        """The address of a copy of `data`, at least one byte."""
        address = self.take(len(data))
        self.write(address, data)
        return address

    def read(self, address: int, size: int) -> bytes:
        """Read `size` bytes, at least one."""
        return self.qtest.b64read(self.physical(address), size)

    def write(self, address: int, data: bytes) -> None:
        """Write `data`, at least one byte."""
        self.qtest.b64write(self.physical(address), data)

    def write_all(self, pieces: Sequence[tuple[int, bytes]]) -> None:
        """Write several pieces, of at least one byte each, one after another."""
        self.qtest.run_all([command.write(self.physical(at), data) for at, data in pieces])
