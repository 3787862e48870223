"""Virtio feature bits by name (virtio 1.3, section 6 "Reserved Feature Bits")."""

from collections.abc import Iterable
from enum import IntEnum


class FeatureBit(IntEnum):
    """Numbers of the bits that mean the same for every device type.

    NOTIFY_ON_EMPTY, ANY_LAYOUT and VHOST_USER_PROTOCOL_FEATURES are in section 6.3
    (legacy). The last is that section's UNUSED bit: in vhost-user.rst it means that a
    back-end negotiates protocol features; a guest never sees it.
    """

    NOTIFY_ON_EMPTY = 24
    ANY_LAYOUT = 27
    INDIRECT_DESC = 28
    EVENT_IDX = 29
    VHOST_USER_PROTOCOL_FEATURES = 30
    VERSION_1 = 32
    ACCESS_PLATFORM = 33
    RING_PACKED = 34
    IN_ORDER = 35
    ORDER_PLATFORM = 36
    SR_IOV = 37
    NOTIFICATION_DATA = 38
    NOTIF_CONFIG_DATA = 39
    RING_RESET = 40
    ADMIN_VQ = 41


def mask(bits: Iterable[int]) -> int:
    """The feature word in which exactly `bits` (numbers from 0) are set."""
    value = 0
    for bit in bits:
        value |= 1 << bit
    return value


def bits(value: int) -> list[int]:
    """Numbers of the bits set in a feature word, lowest first."""
    return [bit for bit in range(value.bit_length()) if value >> bit & 1]


def names(bits: Iterable[int]) -> list[str]:
    """The name of each bit; "bit N" for a bit of the device type."""
    known = {int(bit): bit.name for bit in FeatureBit}
    return [known.get(bit, f"bit {bit}") for bit in bits]
