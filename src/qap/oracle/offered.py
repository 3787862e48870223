"""Which feature bits beside ACCESS_PLATFORM a driver must be offered, from the specifications."""


def ring_packed(*, asked: bool, backend_offers: bool) -> bool:
    """Whether a device offers RING_PACKED.

    virtio 1.3, 6 “Reserved Feature Bits”, RING_PACKED; a vhost-user back-end uses the ring, so it
    has to offer the bit itself (vhost-user, VHOST_USER_GET_FEATURES).

    Args:
        asked: packed=on.
        backend_offers: the device is in QEMU, or its back-end offers the bit.
    """
    return asked and backend_offers
