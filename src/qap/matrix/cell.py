"""Cells of the matrix: one combination each, by name, and which there are."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from fnmatch import fnmatchcase
from functools import cache
from itertools import product

from qap.host.errors import UsageError, unknown_name
from qap.machine.catalog import DeviceType, device_types, machine_types
from qap.matrix.setup import NO_ORDER, Setup
from qap.matrix.tables import EVERY, FENCED, STAYS, BackendRow, DriverRow, Plan, tables
from qap.oracle import fence as oracle
from qap.oracle import lifecycle
from qap.oracle.service import ExpectedService
from qap.oracle.service import service as expected_service

SEPARATOR = "/"
# The axes on which most cells have the same value.
USUAL = {"later": STAYS, "fence": FENCED}


@dataclass(frozen=True)
class Cell:
    """A device as it is plugged, and a driver for it."""

    config: Setup
    driver: str

    @property
    def name(self) -> str:
        """The values on all axes, without those that are usual."""
        said = [value for axis, value in self.axes.items() if value != USUAL.get(axis)]
        return SEPARATOR.join(said)

    @property
    def axes(self) -> dict[str, str]:
        """The value on each axis."""
        values = {axis.name: getattr(self.config, axis.name) for axis in fields(Setup)}
        usual = {name: values.pop(name) for name in USUAL}
        return {**values, "driver": self.driver, **usual}

    @property
    def driver_row(self) -> DriverRow:
        return tables().driver[self.driver]

    @property
    def expected(self) -> tuple[oracle.Expectation, ExpectedService | None]:
        """What must happen on the oldest QEMU; see `expected_with`."""
        return self.expected_with(newer=False)

    def expected_with(self, *, newer: bool) -> tuple[oracle.Expectation, ExpectedService | None]:
        """What must happen at the plug, and to the driver if the device is plugged.

        Args:
            newer: QEMU's vIOMMU has all the properties that are set in newer ones.
        """
        plugged = self.config.plugging
        if plugged.outcome is oracle.Outcome.REFUSED:
            return plugged, None
        service = expected_service(
            plugged,
            self.driver_row.conduct,
            exempt=self.config.is_exempt,
            demanded=self.config.fence_row.here,
            foreign=self.config.is_foreign,
            deaf=self.config.is_deaf(newer=newer),
        )
        return plugged, service

    @property
    def continuation(self) -> lifecycle.Continuation | None:
        """What must happen to the driver later, if anything happens to its device."""
        plugged, service = self.expected
        conduct, fence = self.driver_row.conduct, self.config.fence_row
        if service is None:
            return None
        if self.config.destination:
            return lifecycle.arrival(
                plugged,
                self.config.destination.plugging,
                conduct,
                exempt=self.config.is_exempt,
                source_demands=fence.here,
                destination_demands=fence.there,
            )
        if self.config.later_row.leaves:
            return lifecycle.departure(service)
        if self.config.later_row.returns:
            return lifecycle.comeback(conduct, service, self.config.later_row.loses)
        return None

    def repro(self, *, is_base: bool) -> str:
        """The command that carries out this cell alone."""
        return f"./qap repro --cell {self.name}{' --base' if is_base else ''}"


@cache
def cells() -> tuple[Cell, ...]:
    """Every cell of configs/matrix.toml, in an order in which neighbours share a QEMU."""
    return tuple(dict.fromkeys(cell for plan in tables().plan for cell in _of(plan)))


def _of(plan: Plan) -> Iterator[Cell]:
    devices = device_types() if EVERY in plan.device else plan.device
    product_of = product(
        plan.interface,
        plan.viommu,
        plan.order,
        devices,
        plan.iommu_platform,
        plan.later,
        plan.fence,
    )
    for interface, viommu, order, device, platform, later, fence in product_of:
        row = device_types()[device]
        if not _fits(plan, row, interface, viommu, order):
            continue
        for backend in _backends(plan, device):
            config = Setup(
                plan.machine,
                interface,
                device,
                backend,
                viommu,
                order or NO_ORDER,
                platform,
                plan.plug,
                later,
                fence,
            )
            if _lasts(config) and _exists(config):
                for driver in _drivers(plan, config):
                    yield Cell(config, driver)


def _fits(plan: Plan, row: DeviceType, interface: str, viommu: str, order: str) -> bool:
    """Whether the machine has such a device, interface and order."""
    machine = machine_types()[plan.machine]
    if machine.transport not in row.transports or plan.machine not in (
        row.machines or [plan.machine]
    ):
        return False
    if (plan.plug == "hot" and row.hotplug) or (viommu != "none" and row.alone):
        return False
    if order == "after" and tables().viommu[viommu].device is None:
        return False
    return row.legacy or machine.interface[interface].legacy not in ("also", "only")


def _exists(config: Setup) -> bool:
    """Whether the machine has a type of that version."""
    return bool(config.machine_row.versioned or not config.fence_row.version)


def _lasts(config: Setup) -> bool:
    """Whether the device works until `later` happens, and `later` can happen to it."""
    if config.later == STAYS:
        return True
    here, there = config, config.destination or config
    if config.later_row.returns and not config.reconnects:
        return False
    if config.later_row.leaves and config.backend_row.kind != "python":
        return False
    return all(setup.plugging.outcome is oracle.Outcome.WORKS for setup in (here, there))


def _backends(plan: Plan, device: str) -> list[str]:
    """Those that suit the device; a real program only where a plan names it."""
    every = EVERY in plan.backend
    wanted = tables().backend if every else plan.backend
    kind = device_types()[device].served_by
    return [name for name in wanted if _suits(tables().backend[name], kind, device, every)]


def _suits(row: BackendRow, kind: str, device: str, every: bool) -> bool:
    if every and not row.everywhere:
        return False
    return row.kind == kind if every or not row.device else row.device == device


def _drivers(plan: Plan, config: Setup) -> list[str]:
    """One is enough where the device has to be refused: there is nothing to drive then."""
    fitting = []
    for name in plan.driver:
        row = tables().driver[name]
        legacy = config.interface_row.legacy
        if row.legacy and not (legacy and config.device_row.legacy):
            continue
        if not row.legacy and legacy == "only":
            continue
        if not row.legacy and legacy and not config.backend_row.version_1:
            continue
        if row.reads_config and not config.device_row.config_layout:
            continue
        if "legacy" in row.reads_config and not (legacy and config.device_row.legacy):
            continue
        if (
            row.packed
            and config.backend_row.kind == "python"
            and not config.backend_row.ring_packed
        ):
            continue
        fitting.append(name)
    never = config.skip and not config.in_lab
    if config.plugging.outcome is oracle.Outcome.REFUSED or never:
        return fitting[:1]
    return fitting


def named(name: str) -> Cell:
    """The cell of that name.

    Raises:
        UsageError: there is none; names the nearest.
    """
    if name not in _by_name():
        raise unknown_name("cell", name, _by_name())
    return _by_name()[name]


@cache
def _by_name() -> dict[str, Cell]:
    return {cell.name: cell for cell in cells()}


def selected(selectors: Sequence[str]) -> list[Cell]:
    """The cells that any selector matches, or all of them if there is none.

    A selector is a pattern for the whole name, such as `q35/*/hot/accepts`, or
    `axis=pattern` pairs joined by commas, all of which must match.

    Raises:
        UsageError: an axis isn't there, or a selector matches nothing.
    """
    if not selectors:
        return list(cells())
    chosen: dict[Cell, None] = {}
    for selector in selectors:
        matching = [cell for cell in cells() if _matches(cell, selector)]
        if not matching:
            raise UsageError(f"--select {selector}: no cell matches")
        chosen.update(dict.fromkeys(matching))
    return [cell for cell in cells() if cell in chosen]


def _matches(cell: Cell, selector: str) -> bool:
    if "=" not in selector:
        return fnmatchcase(cell.name, selector)
    return matches_axes(cell.axes, dict(part.partition("=")[::2] for part in selector.split(",")))


def matches_axes(axes: dict[str, str], patterns: dict[str, str]) -> bool:
    """Whether each named axis matches its pattern (alternatives are joined by |).

    Raises:
        UsageError: there is no such axis.
    """
    for axis, pattern in patterns.items():
        if axis not in axes:
            raise unknown_name("axis", axis, axes)
        if not any(fnmatchcase(axes[axis], alternative) for alternative in pattern.split("|")):
            return False
    return True


def shard(chosen: Sequence[Cell], part: str) -> list[Cell]:
    """The i-th of n parts, written i/n; all of a device's cells are in one part.

    Raises:
        UsageError: it is not i/n with 1 <= i <= n.
    """
    index, slash, count = part.partition("/")
    if not (slash and index.isdecimal() and count.isdecimal() and 1 <= int(index) <= int(count)):
        raise UsageError(f"--shard {part}: expected i/n with i from 1 to n, such as 1/4")
    configs = list(dict.fromkeys(cell.config for cell in chosen))
    mine = set(configs[int(index) - 1 :: int(count)])
    return [cell for cell in chosen if cell.config in mine]
