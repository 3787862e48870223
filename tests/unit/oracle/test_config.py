"""The byte order of device configuration."""

import pytest

from qap.oracle import config
from qap.oracle.config import Interface, Order


@pytest.mark.parametrize(
    ("interface", "guest", "order"),
    [
        ("modern", "little", "little"),
        ("modern", "big", "little"),
        ("legacy", "little", "little"),
        ("legacy", "big", "big"),
    ],
)
def test_configuration_is_little_endian_or_the_guests_own(
    interface: Interface, guest: Order, order: Order
) -> None:
    """virtio 1.3, 2.5.3 and, for the legacy interface, 2.5.4."""
    assert config.order(interface, guest) == order


def test_each_field_is_swapped_by_itself() -> None:
    data = bytes.fromhex("0102030405060708 0102 616263 0506")
    layout = "QH3sH"
    assert config.size(layout) == len(data)
    assert config.arranged(data, layout, "little") == data
    swapped = bytes.fromhex("0807060504030201 0201 616263 0605")
    assert config.arranged(data, layout, "big") == swapped


def test_configuration_that_is_always_little_endian_stays() -> None:
    """5.5.4: a legacy balloon's."""
    assert config.arranged(bytes(range(8)), "<II", "big") == bytes(range(8))
    assert config.size("<II") == 8
