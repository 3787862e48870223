"""configs/matrix.toml as data: vIOMMUs, back-ends, drivers and plans."""

from collections.abc import Mapping
from functools import cache
from typing import Literal

from qap.host.errors import UsageError
from qap.host.paths import data
from qap.host.toml import Model, checked, read
from qap.machine.catalog import Property, device_types, machine_types, viommus
from qap.oracle import fence as oracle
from qap.oracle import lifecycle
from qap.oracle.config import Interface
from qap.oracle.service import Conduct, FeaturesOk, Kicks

PATH = data() / "matrix.toml"
EVERY = "*"
# The usual values of `later` and `fence`, which a cell's name leaves out.
STAYS = "stays"
FENCED = "fenced"


class ViommuRow(Model):
    """The vIOMMU between a device and memory.

    Attributes:
        type: a name of configs/viommus.toml.
        bypassed: the root bus bypasses it.
        programmed: a driver of it (qap.iommu) maps I/O virtual addresses for the device.
    """

    type: str = "none"
    bypassed: bool = False
    programmed: bool = False

    @property
    def device(self) -> Mapping[str, Property] | None:
        return viommus()[self.type].device

    @property
    def tells(self) -> Mapping[str, Property] | None:
        return viommus()[self.type].tells

    @property
    def newer_tells(self) -> bool:
        """Newer ones tell a device of each mapping, without being asked to."""
        return viommus()[self.type].newer_tells

    @property
    def machine(self) -> str:
        """Properties of the machine."""
        return "default-bus-bypass-iommu=on" if self.bypassed else ""

    @property
    def translated(self) -> bool:
        """Devices on the machine's bus are behind it."""
        return self.device is not None and not self.bypassed


class BackendRow(Model):
    """What is behind a device, and which feature bits it offers.

    Attributes:
        device: the only one that it serves, if it is a real program.
        lacks: protocol features that one in Python leaves out.
        everywhere: "*" in a plan stands for it, too.
    """

    kind: Literal["in-qemu", "python", "kernel", "real"]
    device: str = ""
    access_platform: bool = False
    version_1: bool = True
    ring_packed: bool = False
    lacks: tuple[Literal["REPLY_ACK", "BACKEND_REQ"], ...] = ()
    everywhere: bool = True

    @property
    def can_translate(self) -> bool:
        """Whether it can serve a device behind a vIOMMU."""
        return self.kind == "in-qemu" or oracle.can_translate(
            offers=self.access_platform, lacks=self.lacks
        )


class DriverRow(Model):
    """A driver's behaviour; see qap.oracle.service.Conduct for what it shares with that.

    Attributes:
        reads_config: drivers that read device configuration before it, one after the other, by
            the interface that each uses (qap.matrix.config_reading).
    """

    purpose: str
    legacy: bool = False
    version_1: bool = True
    access_platform: bool = True
    packed: bool = False
    features_ok: FeaturesOk = "alone"
    obeys: bool = True
    kicks: Kicks = "served"
    starts: bool = True
    again: bool = False
    reads_config: tuple[Interface, ...] = ()
    unplugs: bool = False

    @property
    def conduct(self) -> Conduct:
        """The part on which the expectation depends."""
        return Conduct(
            legacy=self.legacy,
            version_1=self.version_1,
            access_platform=self.access_platform,
            features_ok=self.features_ok,
            obeys=self.obeys,
            kicks=self.kicks,
            starts=self.starts,
        )


class LaterRow(Model):
    """What happens to a device while a driver uses it.

    Attributes:
        leaves: its back-end disconnects for good.
        returns: its back-end disconnects, and one reconnects.
        loses: features that the one that reconnects no longer offers, by name.
        moves_to: iommu_platform where its VM migrates to; "" if it stays.
    """

    purpose: str
    leaves: bool = False
    returns: bool = False
    loses: tuple[lifecycle.Feature, ...] = ()
    moves_to: Literal["", "on", "off"] = ""


class FenceRow(Model):
    """Whether a device insists on ACCESS_PLATFORM (x-require-iommu-platform).

    Attributes:
        version: of the machine type, which decides it; "" for the newest one, where the
            device says it where that is not the default.
        here: where it is plugged.
        there: where it migrates to.
    """

    purpose: str
    version: str = ""
    here: bool = True
    there: bool = True


class Plan(Model):
    """A product of axes; "*" means everything that fits."""

    machine: str
    interface: tuple[str, ...]
    viommu: tuple[str, ...]
    order: tuple[Literal["", "before", "after"], ...] = ("",)
    plug: Literal["hot", "cold"]
    device: tuple[str, ...] = (EVERY,)
    backend: tuple[str, ...] = (EVERY,)
    iommu_platform: tuple[Literal["on", "off"], ...] = ("on", "off")
    driver: tuple[str, ...]
    later: tuple[str, ...] = (STAYS,)
    fence: tuple[str, ...] = (FENCED,)


class MatrixTables(Model):
    """The whole file."""

    viommu: dict[str, ViommuRow]
    backend: dict[str, BackendRow]
    driver: dict[str, DriverRow]
    later: dict[str, LaterRow]
    fence: dict[str, FenceRow]
    plan: tuple[Plan, ...]


@cache
def tables() -> MatrixTables:
    """The tables, with every name in a plan looked up.

    Raises:
        UsageError: the file is wrong.
    """
    matrix_tables = checked(MatrixTables, read(PATH), PATH)
    for number, plan in enumerate(matrix_tables.plan, 1):
        _known(number, "machine", (plan.machine,), machine_types())
        _known(number, "interface", plan.interface, machine_types()[plan.machine].interface)
        _known(number, "viommu", plan.viommu, matrix_tables.viommu)
        _known(number, "device", plan.device, device_types())
        _known(number, "backend", plan.backend, matrix_tables.backend)
        _known(number, "driver", plan.driver, matrix_tables.driver)
        _known(number, "later", plan.later, matrix_tables.later)
        _known(number, "fence", plan.fence, matrix_tables.fence)
    return matrix_tables


def _known(number: int, axis: str, names: tuple[str, ...], valid: object) -> None:
    assert isinstance(valid, dict)
    for name in names:
        if name != EVERY and name not in valid:
            raise UsageError(
                f"configs/matrix.toml: plan {number} names the {axis} {name!r}, which isn't there"
            )
