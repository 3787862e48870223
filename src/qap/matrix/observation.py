"""What was seen of a cell."""

from dataclasses import dataclass, field

from qap.matrix.config_reading import ConfigReading


@dataclass
class CellObservation:
    """An observation; None where there was nothing to see.

    Attributes:
        outcome: "works" (it plugged), "refused", or "" where something else went wrong.
        error: what QEMU said when it refused, or what went wrong.
        exit_status: QEMU's, where it ended by itself.
        features: bits that were offered to the driver.
        features_ok: whether FEATURES_OK stayed set.
        status: the device status at the end.
        served: whether the probe was used.
        served_early: whether it was used before DRIVER_OK.
        backend_features: bits that a vhost back-end was given last.
        backend_unoffered: bits among them that it never offered.
        ring_started: whether it was told where the ring is.
        iotlb: how many IOTLB messages it got, since the driver began.
        iotlb_before: how many a vDPA device got before, since it was plugged: QEMU may tell it of
            memory as soon as it is there.
        addresses: "iova" or "gpa": what the device was told that the ring and the probe lie
            at; where a back-end in Python touched them, what it took that for.
        config: what was read of device configuration, where the driver reads it early.
        arrived: whether the destination of a migration took the VM.
        later_error: what it said if not.
        later_started: whether the back-end that came back was told where a ring is.
        later_unoffered: bits that it was given and did not offer.
        later_served: whether all buffers are used then, by it, or at the destination.
        recovered: whether all buffers are used in the end: with a back-end that offers all
            features again, or by a driver that has reset the device at the destination.
        leftovers: what an unplugged or refused device left behind.
        newer: whether QEMU's vIOMMU has all the properties that configs/viommus.toml sets in newer
            ones.
    """

    outcome: str = ""
    error: str = ""
    exit_status: int | None = None
    features: list[int] | None = None
    features_ok: bool | None = None
    status: int | None = None
    served: bool | None = None
    served_early: bool | None = None
    backend_features: list[int] | None = None
    backend_unoffered: list[int] = field(default_factory=list)
    ring_started: bool | None = None
    iotlb: int | None = None
    iotlb_before: int = 0
    addresses: str = ""
    config: list[ConfigReading] = field(default_factory=list)
    arrived: bool | None = None
    later_error: str = ""
    later_started: bool | None = None
    later_unoffered: list[int] = field(default_factory=list)
    later_served: bool | None = None
    recovered: bool | None = None
    leftovers: list[str] = field(default_factory=list)
    newer: bool = False
