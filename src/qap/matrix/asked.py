"""The cell that a command line describes, whether a plan makes it or not."""

from typing import Protocol

from qap.explain.backend import features
from qap.host.errors import UsageError, unknown_name
from qap.machine.catalog import DeviceType, MachineType, viommus
from qap.machine.place import check_place
from qap.matrix.cell import Cell
from qap.matrix.setup import NO_ORDER, Setup
from qap.matrix.tables import STAYS, tables


class Asked(Protocol):
    """What is asked for.

    Attributes:
        plug: cold, hot, or replug: the device is unplugged, and nothing may stay behind.
        viommu: a name of configs/viommus.toml; a driver of it maps for the device.
        backend: what its back-end offers, as `qap.explain.backend.features` takes it.
        packed: the driver accepts packed rings, too.
        later: what becomes of the device then, by configs/matrix.toml; "" for nothing.
    """

    @property
    def plug(self) -> str: ...
    @property
    def viommu(self) -> str: ...
    @property
    def order(self) -> str: ...
    @property
    def bypass(self) -> bool: ...
    @property
    def iommu_platform(self) -> bool: ...
    @property
    def backend(self) -> str: ...
    @property
    def packed(self) -> bool: ...
    @property
    def later(self) -> str: ...


def asked_cell(machine: MachineType, kind: DeviceType, asked: Asked) -> Cell:
    """A device driven from Python, with a driver that accepts what it is offered.

    Raises:
        UsageError: it can't be done; says why.
    """
    plug, viommu, later = asked.plug, asked.viommu, asked.later or STAYS
    if not machine.driven:
        raise UsageError(f"on {machine.name} a device is shown by a guest alone, or not at all")
    check_place(machine, kind, plug=plug)
    if viommu != "none" and kind.alone:
        raise UsageError(f"{kind.name} is on no machine with a vIOMMU: {kind.alone}")
    if later not in tables().later:
        raise unknown_name("event", later, tables().later)
    if asked.packed and plug == "replug":
        raise UsageError("at device level --packed goes with --hotplug, not with --replug")
    translates = viommus()[viommu].device is not None if viommu in viommus() else None
    if translates is None:
        raise unknown_name("vIOMMU", viommu, viommus())
    setup = Setup(
        machine.name,
        next(iter(machine.interface)),
        kind.name,
        _backend(kind, asked.backend),
        _viommu(machine, viommu, bypass=asked.bypass),
        asked.order if plug == "cold" and translates else NO_ORDER,
        "on" if asked.iommu_platform else "off",
        "cold" if plug == "cold" else "hot",
        later,
    )
    _check_later(setup)
    driver = "unplugs" if plug == "replug" else "accepts-packed" if asked.packed else "accepts"
    return Cell(setup, driver)


def _viommu(machine: MachineType, name: str, *, bypass: bool) -> str:
    """The row of configs/matrix.toml for a vIOMMU that a driver programs, or that is bypassed."""
    if name != "none" and name not in machine.viommus:
        raise UsageError(f"{machine.name} takes no {name}")
    for row_name, row in tables().viommu.items():
        wanted = row.bypassed if bypass else row.programmed or name == "none"
        if row.type == name and wanted:
            return row_name
    raise UsageError(f"at device level {name} can't be bypassed")


def _backend(kind: DeviceType, told: str) -> str:
    """The back-end that suits the device, and offers what it is told to."""
    if kind.served_by != "python":
        if told:
            raise UsageError(f"{kind.name} is served {kind.served_by}: its back-end can't be told")
        return kind.served_by
    wanted = features(told or "none")
    for name, row in tables().backend.items():
        offered = (row.access_platform, row.version_1, set(row.lacks), row.ring_packed)
        asked = (wanted.offers, wanted.version_1, set(wanted.lacks), wanted.ring_packed)
        if row.kind == "python" and offered == asked:
            return name
    raise UsageError(f"--backend {told}: configs/matrix.toml has no such back-end")


def _check_later(setup: Setup) -> None:
    """Refuse what can't happen to the device."""
    later, name = setup.later_row, setup.device_row.name
    if later.returns and not setup.reconnects:
        raise UsageError(f"QEMU does not connect again when the back-end of {name} has gone")
    if later.leaves and setup.backend_row.kind != "python":
        raise UsageError(f"{name} has no back-end that could leave")
    if later.moves_to and setup.backend_row.kind != "in-qemu":
        raise UsageError(f"only a VM with a device in QEMU migrates here, and {name} is not")
