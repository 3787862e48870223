"""Drivers that read device configuration on their way to FEATURES_OK, and what they read."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from qap.oracle import config
from qap.oracle.config import Interface, Order, ReadingPoint
from qap.oracle.features import FeatureBit, mask
from qap.oracle.status import Status

WIDTHS = (1, 2, 4, 8)
WORD = 0xFFFF_FFFF


@dataclass(frozen=True)
class ConfigReading:
    """One read of device configuration, from its first byte on.

    Attributes:
        turn: which driver read, from 0; the device is reset between two.
        interface: the one that it used.
        data: what it read, in hexadecimal.
    """

    turn: int
    interface: Interface
    point: ReadingPoint
    data: str

    def __str__(self) -> str:
        return f"driver {self.turn} ({self.interface}, at {self.point})"


class Negotiation(Protocol):
    """What a reader needs of a `qap.virtio.transport.Transport`."""

    @property
    def legacy(self) -> bool: ...
    @property
    def device_features(self) -> int: ...
    def reset(self) -> None: ...
    def set_status(self, status: Status) -> None: ...
    def set_driver_features(self, features: int) -> None: ...
    def set_driver_feature_word(self, index: int, word: int) -> None: ...
    def config_read(self, offset: int, size: int) -> bytes: ...


@dataclass(frozen=True)
class ConfigReader:
    """A driver that goes as far as FEATURES_OK and resets the device, and reads on its way.

    Args:
        turn: its number, from 0.
        size: bytes of configuration that the device has.
        accepts: the features that it accepts if they are offered.
    """

    transport: Negotiation
    turn: int
    size: int
    accepts: int

    def run(self) -> Iterator[ConfigReading]:
        """Read at every point; raises QapError as the transport does."""
        transport, seen = self.transport, ReadingPoint
        transport.reset()
        yield from self._widths(seen.RESET)
        status = Status.ACKNOWLEDGE
        transport.set_status(status)
        yield self._read(seen.ACKNOWLEDGE, self.size)
        status |= Status.DRIVER
        transport.set_status(status)
        yield self._read(seen.DRIVER, self.size)
        if transport.legacy:
            transport.set_driver_features(0)
            yield from self._widths(seen.FEATURES_0)
        else:
            features = transport.device_features & (self.accepts | mask([FeatureBit.VERSION_1]))
            transport.set_driver_feature_word(0, features & WORD)
            yield self._read(seen.FEATURES_0, self.size)
            transport.set_driver_feature_word(1, features >> 32)
            yield self._read(seen.FEATURES_1, self.size)
            transport.set_status(status | Status.FEATURES_OK)
            yield from self._widths(seen.FEATURES_OK)
        transport.reset()
        yield self._read(seen.AFTER, self.size)

    def _widths(self, point: ReadingPoint) -> Iterator[ConfigReading]:
        """With accesses of each width, and everything."""
        for size in (*WIDTHS, self.size):
            if size <= self.size:
                yield self._read(point, size)

    def _read(self, point: ReadingPoint, size: int) -> ConfigReading:
        interface: Interface = "legacy" if self.transport.legacy else "modern"
        data = self.transport.config_read(0, size).hex()
        return ConfigReading(self.turn, interface, point, data)


def misread(readings: Sequence[ConfigReading], layout: str, guest: Order) -> list[str]:
    """Which readings lack the bytes that a modern driver reads once it has accepted VERSION_1.

    Args:
        layout: of the configuration, as in `qap.oracle.config.arranged`.
        guest: the guest's byte order.
    """
    settled = [
        reading.data
        for reading in readings
        if reading.point is ReadingPoint.FEATURES_OK and reading.interface == "modern"
    ]
    if not settled:
        return []
    whole = bytes.fromhex(max(settled, key=len))
    wrong = []
    for reading in readings:
        order = config.order(reading.interface, guest)
        expected = config.arranged(whole, layout, order).hex()[: len(reading.data)]
        if reading.data != expected:
            wrong.append(f"{reading} reads {reading.data}, not {expected}")
    return wrong
