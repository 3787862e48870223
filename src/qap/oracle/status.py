"""The device status field (virtio 1.3, 2.1)."""

from enum import IntFlag


class Status(IntFlag):
    """The bits of the field: the driver's steps, and what the device reports."""

    ACKNOWLEDGE = 1
    DRIVER = 2
    DRIVER_OK = 4
    FEATURES_OK = 8
    DEVICE_NEEDS_RESET = 64
    FAILED = 128
