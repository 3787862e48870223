"""Device configuration space as registers (virtio 1.3, section 2.5), on a little-endian machine."""

from collections.abc import Iterator
from dataclasses import dataclass

from qap.machine.qtest import Qtest
from qap.virtio.registers import RegisterAccess
from qap.virtio.transport import VirtioError


@dataclass(frozen=True)
class ConfigSpace:
    """A device's configuration.

    Attributes:
        base: its first address in memory, or its first port.
        size: in bytes.
        accesses: MEMORY or PORTS.
    """

    qtest: Qtest
    base: int
    size: int
    accesses: dict[int, RegisterAccess]

    def read(self, offset: int, size: int) -> bytes:
        """A range, as bytes in the order of their addresses.

        Raises:
            VirtioError: the range ends behind the configuration.
        """
        parts = self._parts(offset, size)
        values = self.qtest.run_all([self.accesses[width].read(at) for at, width in parts])
        return b"".join(
            value.to_bytes(width, "little") for value, (_, width) in zip(values, parts, strict=True)
        )

    def write(self, offset: int, data: bytes) -> None:
        """Write a range; raises as `read` does."""
        commands = []
        start = self.base + offset
        for at, width in self._parts(offset, len(data)):
            value = int.from_bytes(data[at - start : at - start + width], "little")
            commands.append(self.accesses[width].write(at, value))
        self.qtest.run_all(commands)

    def _parts(self, offset: int, size: int) -> list[tuple[int, int]]:
        if offset + size > self.size:
            raise VirtioError(f"the device has no {size} bytes of configuration at {offset:#x}")
        return [(self.base + at, width) for at, width in natural(offset, size)]


def natural(offset: int, size: int) -> Iterator[tuple[int, int]]:
    """Offset and width of the natural accesses that cover a range (4.1.3.1, 4.2.2.2)."""
    at, end = offset, offset + size
    while at < end:
        width = next(width for width in (4, 2, 1) if at % width == 0 and at + width <= end)
        yield at, width
        at += width
