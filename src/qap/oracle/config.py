"""What a driver must read from device configuration space (virtio 1.3, 2.5)."""

import struct
from enum import StrEnum
from typing import Literal

Order = Literal["little", "big"]
Interface = Literal["modern", "legacy"]
_ORDERS = {"little": "<", "big": ">"}


class ReadingPoint(StrEnum):
    """How far a driver has come when it reads configuration (3.1.1).

    From DRIVER on it may read any field, also before FEATURES_OK; drivers do so earlier.
    A legacy driver knows no FEATURES_OK and no feature word 1.
    """

    RESET = "status 0"
    ACKNOWLEDGE = "ACKNOWLEDGE"
    DRIVER = "DRIVER"
    FEATURES_0 = "feature word 0"
    FEATURES_1 = "feature word 1"
    FEATURES_OK = "FEATURES_OK"
    AFTER = "after a reset"


def order(interface: Interface, guest: Order) -> Order:
    """The byte order of device configuration space (2.5.3 and 2.5.4), at every reading point.

    Args:
        interface: that the driver uses; the modern one is the modern regions (PCI), revision 1
            or later (CCW), or version 2 (MMIO).
        guest: the guest's own byte order.
    """
    return "little" if interface == "modern" else guest


def arranged(data: bytes, layout: str, order: Order) -> bytes:
    """Little-endian configuration as it must look in another byte order.

    Args:
        data: the configuration, of the layout's size.
        layout: its fields as `struct` writes them, without padding; one that begins with "<"
            is little-endian for legacy drivers, too (such as 5.5.4).
    """
    if layout.startswith("<"):
        return data
    return struct.pack(_ORDERS[order] + layout, *struct.unpack(f"<{layout}", data))


def size(layout: str) -> int:
    """Bytes of configuration that a layout describes."""
    return struct.calcsize(layout if layout.startswith("<") else f"<{layout}")
