"""A device as data."""

from collections.abc import Mapping

# The properties of a -device, "driver" among them. A value is what JSON has: -device takes
# booleans as on and off.
Device = Mapping[str, object]


def device_option(device: Device) -> str:
    """A device as -device takes it: driver first, booleans as on and off."""
    shown = {True: "on", False: "off"}
    rest = [
        f"{key}={shown[value] if isinstance(value, bool) else value}"
        for key, value in device.items()
        if key != "driver"
    ]
    return ",".join([str(device["driver"]), *rest])
