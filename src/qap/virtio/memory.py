"""Guest memory for a driver's queues and buffers."""

from dataclasses import dataclass, field

from qap.errors import QapError
from qap.qtest import Qtest

MIB = 1 << 20
LOW_END = 16 * MIB
PAGE = 4096


@dataclass
class GuestMemory:
    """A range of guest RAM, handed out from the front and never taken back piece by piece.

    Args:
        base: first address, above what firmware and legacy devices use on a PC.
        size: in bytes.
    """

    qtest: Qtest
    base: int = LOW_END
    size: int = 64 * MIB
    _next: int = field(init=False)

    def __post_init__(self) -> None:
        self._next = self.base

    def take(self, size: int, alignment: int = 16) -> int:
        """The address of `size` zeroed bytes.

        Raises:
            QapError: there are not that many left.
        """
        address = -(-self._next // alignment) * alignment
        if address + size > self.base + self.size:
            raise QapError(f"no {size} bytes are left of {self.size} in guest memory")
        self._next = address + size
        self.qtest.memset(address, size, 0)
        return address

    def give_back(self) -> None:
        """Begin at the front again; nothing that was taken may be in use any more."""
        self._next = self.base

    def put(self, data: bytes) -> int:
        """The address of a copy of `data`, at least one byte."""
        address = self.take(len(data))
        self.write(address, data)
        return address

    def read(self, address: int, size: int) -> bytes:
        """At least one byte."""
        return self.qtest.b64read(address, size)

    def write(self, address: int, data: bytes) -> None:
        """At least one byte."""
        self.qtest.b64write(address, data)
