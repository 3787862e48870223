"""A device as data: the properties of a -device, "driver" among them."""

from typing import Any

Device = dict[str, Any]


def device_option(device: Device) -> str:
    """A device as -device takes it: driver first, booleans as on and off."""
    shown = {True: "on", False: "off"}
    rest = [
        f"{key}={shown[value] if isinstance(value, bool) else value}"
        for key, value in device.items()
        if key != "driver"
    ]
    return ",".join([device["driver"], *rest])
