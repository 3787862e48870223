"""What a hostile driver drives: a device type, how it is plugged, and by which interface."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from random import Random

from qap.machine.catalog import DeviceType, device_types
from qap.matrix.setup import NO_ORDER, Setup
from qap.measure.hostile.name import EpisodeName

# Machine and interface for each name of qap.virtio.transports.
PLACES: Mapping[str, tuple[str, str]] = {
    "pci modern": ("q35", "modern"),
    "pci legacy": ("pc", "transitional"),
    "mmio 1": ("microvm", "version-1"),
    "mmio 2": ("microvm", "version-2"),
    "ccw 0": ("s390-ccw-virtio", "revision-2"),
    "ccw 1": ("s390-ccw-virtio", "revision-1"),
    "ccw 2": ("s390-ccw-virtio", "revision-2"),
}
LEGACY = ("pci legacy", "mmio 1", "ccw 0")
VIOMMUS = ("none", "intel-on", "virtio-on")
WITH_IOTHREAD = ("virtio-blk", "virtio-scsi", "virtio-balloon")


@dataclass(frozen=True)
class Target:
    """A device under attack.

    Attributes:
        device: a name of configs/devices.toml.
        transport: a name of qap.virtio.transports.
        packed: its driver accepts RING_PACKED.
        iothread: its queues are served in an iothread.
        viommu: a vIOMMU of configs/matrix.toml, "none" if there is none.
    """

    device: str
    transport: str
    packed: bool = False
    iothread: bool = False
    viommu: str = "none"

    def __str__(self) -> str:
        ring = "packed" if self.packed else "split"
        extra = ", iothread" if self.iothread else ""
        viommu = "" if self.viommu == "none" else f", {self.viommu.removesuffix('-on')}"
        return f"{self.device}, {self.transport}, {ring}{extra}{viommu}"

    @property
    def legacy(self) -> bool:
        """Whether the driver uses a legacy interface."""
        return self.transport in LEGACY

    @property
    def can_lose_its_cpu(self) -> bool:
        """Whether the driver may give away the page with the CPU's code that sends commands."""
        return self.device == "virtio-balloon" and self.transport.startswith("ccw")

    @property
    def setup(self) -> Setup:
        """How it is plugged, as the matrix says it."""
        machine, interface = PLACES[self.transport]
        row = device_types()[self.device]
        cold = bool(row.hotplug) or self.transport.startswith("mmio")
        return Setup(
            machine,
            interface,
            self.device,
            "packed" if row.vhost_user else "in-qemu",
            self.viommu,
            "before" if cold else NO_ORDER,
            "off" if self.viommu == "none" else "on",
            "cold" if cold else "hot",
        )


@cache
def targets() -> tuple[Target, ...]:
    """Every target, in the order of the catalogue."""
    return tuple(
        target
        for row in device_types().values()
        if not row.needs and row.probe
        for transport in PLACES
        if _fits(row, transport)
        for target in _variants(row, transport)
    )


def _fits(row: DeviceType, transport: str) -> bool:
    machine, _ = PLACES[transport]
    kind = transport.split(maxsplit=1)[0]
    return (
        kind in row.every_transport
        and (not row.machines or machine in row.machines)
        and (transport != "pci legacy" or row.legacy)
        # What only the fork has there has no legacy interface.
        and (transport != "ccw 0" or (row.legacy and kind in row.transports))
    )


def _variants(row: DeviceType, transport: str) -> Iterator[Target]:
    iothreads = (False, True) if row.name in WITH_IOTHREAD else (False,)
    viommus = VIOMMUS if transport == "pci modern" and not row.alone else ("none",)
    for packed in (False,) if transport in LEGACY else (False, True):
        for iothread in iothreads:
            for viommu in viommus:
                yield Target(row.name, transport, packed, iothread, viommu)


def target(name: EpisodeName) -> Target:
    """The target of an episode: its batch's, each in turn in an order that the seed decides."""
    order = list(targets())
    Random(f"targets {name.seed}").shuffle(order)
    return order[name.batch % len(order)]
