"""What the addresses mean that a vhost-user front-end sends.

Written from vhost-user.rst: “Vring address description”, “IOTLB message” and, for GPA_ADDRESSES,
protocol feature 21 of QEMU 11.1.
"""

from typing import Literal

Space = Literal["iova", "gpa", "uva"]


def of_rings(*, translating: bool, gpa_addresses: bool) -> Space:
    """The space of the addresses in SET_VRING_ADDR.

    I/O virtual, guest physical, or the front-end's user space.

    Args:
        translating: the back-end was told of ACCESS_PLATFORM.
        gpa_addresses: GPA_ADDRESSES was negotiated.
    """
    return "iova" if translating else of_translations(gpa_addresses=gpa_addresses)


def of_buffers(*, translating: bool) -> Space:
    """The space of the addresses in descriptors; the front-end does not change them."""
    return "iova" if translating else "gpa"


def of_translations(*, gpa_addresses: bool) -> Space:
    """The space that an IOTLB update leads to."""
    return "gpa" if gpa_addresses else "uva"
