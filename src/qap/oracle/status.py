"""The device status field (virtio 1.3, 2.1)."""

from enum import IntFlag


class Status(IntFlag):
    """How far a driver says it has come, and what the device answers."""

    ACKNOWLEDGE = 1
    DRIVER = 2
    DRIVER_OK = 4
    FEATURES_OK = 8
    DEVICE_NEEDS_RESET = 64
    FAILED = 128
