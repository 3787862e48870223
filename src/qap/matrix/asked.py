"""The cell that a command line describes, whether a plan makes it or not."""

from typing import Protocol

from qap.explain.backend import features
from qap.host.errors import UsageError, unknown_name
from qap.machine.catalog import DeviceType, MachineType, viommus
from qap.machine.place import check_place
from qap.matrix.asked_setup import AskedSetup, Beside, check_beside
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
        kill_backend, migrate: other names for some of that; see `_later`.
        behind: another place of the machine; "" for the usual one.
        queues: how many request queues the driver uses, the last one for its probe.
        iothread: one serves it.
        ats: the driver uses its address translation service.
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
    @property
    def kill_backend(self) -> str: ...
    @property
    def migrate(self) -> bool: ...
    @property
    def behind(self) -> str: ...
    @property
    def queues(self) -> int: ...
    @property
    def iothread(self) -> bool: ...
    @property
    def ats(self) -> bool: ...


def asked_cell(machine: MachineType, kind: DeviceType, asked: Asked) -> Cell:
    """A device driven from Python, with a driver that accepts what it is offered.

    Raises:
        UsageError: it can't be done; says why.
    """
    plug, viommu, later = asked.plug, asked.viommu, _later(kind, asked)
    check_place(machine, kind, plug=plug, behind=asked.behind)
    if viommu != "none" and kind.alone:
        raise UsageError(f"{kind.name} is on no machine with a vIOMMU: {kind.alone}")
    if later not in tables().later:
        raise unknown_name("event", later, tables().later)
    if asked.packed and plug == "replug":
        raise UsageError("at device level --packed goes with --hotplug, not with --replug")
    translates = viommus()[viommu].device is not None if viommu in viommus() else None
    if translates is None:
        raise unknown_name("vIOMMU", viommu, viommus())
    beside = Beside(asked.behind, asked.queues, iothread=asked.iothread, ats=asked.ats)
    check_beside(machine, kind, asked, beside)
    setup = AskedSetup(
        machine.name,
        next(iter(machine.interface)),
        kind.name,
        _backend(kind, asked.backend),
        _viommu(machine, viommu, bypass=asked.bypass),
        asked.order if plug == "cold" and translates else NO_ORDER,
        "on" if asked.iommu_platform else "off",
        "cold" if plug == "cold" else "hot",
        later,
        beside=beside,
    )
    _check_later(setup)
    driver = "unplugs" if plug == "replug" else "accepts-packed" if asked.packed else "accepts"
    return Cell(setup, driver)


def _later(kind: DeviceType, asked: Asked) -> str:
    """The event of configs/matrix.toml that is meant."""
    if asked.later and (asked.kill_backend or asked.migrate):
        raise UsageError("--later says what becomes of it: leave out --kill-backend and --migrate")
    if asked.kill_backend and asked.migrate:
        raise UsageError("--kill-backend and --migrate are two cases: leave out one of them")
    if asked.kill_backend == "busy":
        raise UsageError("at device level nobody reads all the time: take --kill-backend idle")
    if asked.kill_backend:
        vhost_user = kind.vhost_user
        return "returns" if vhost_user and vhost_user.reconnects else "leaves"
    if asked.migrate:
        return "moves-on" if asked.iommu_platform else "moves-off"
    return asked.later or STAYS


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
    blocked = [
        row.name
        for row in (setup.device_row, viommus()[setup.viommu_row.type], setup.machine_row)
        if row.unmigratable
    ]
    if later.moves_to and blocked:
        raise UsageError(f"QEMU migrates no VM that has {blocked[0]}")
    if later.moves_to and setup.backend_row.kind != "in-qemu":
        raise UsageError(f"only a VM with a device in QEMU migrates here, and {name} is not")
