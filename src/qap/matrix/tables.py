"""configs/matrix.toml as data: machines, vIOMMUs, back-ends, drivers, devices and plans."""

from functools import cache
from typing import Literal

from pydantic import Field

from qap.host.errors import UsageError
from qap.host.paths import data
from qap.host.toml import Model, checked, read
from qap.oracle import fence as oracle
from qap.oracle import lifecycle

PATH = data() / "matrix.toml"
Property = str | int | bool
Transport = Literal["pci", "mmio", "ccw"]
EVERY = "*"
# What is so unless a cell's name says otherwise.
STAYS = "stays"
FENCED = "fenced"


class Interface(Model):
    """How a device shows itself to its driver.

    Attributes:
        legacy: it has a legacy interface also, or only that, or a driver that asks for
            nothing newer gets one.
        properties: of the device, where it has both interfaces to choose from.
        args: of QEMU.
    """

    legacy: Literal["", "also", "only", "by-driver"] = ""
    properties: dict[str, Property] = Field(default_factory=dict)
    args: tuple[str, ...] = ()


class MachineRow(Model):
    """A machine type and where on it a device goes.

    Attributes:
        versioned: what an older one of it is called, with {} for the version; "" if there
            is none.
        port: what the device is plugged into.
    """

    qemu: str
    type: str
    versioned: str = ""
    transport: Transport
    accel: str = "qtest"
    cpu: str | None = None
    acpi: str | None = None
    port: dict[str, Property] | None = None
    place: dict[str, str] = Field(default_factory=dict)
    interface: dict[str, Interface]


class ViommuRow(Model):
    """What stands between a device and memory.

    Attributes:
        machine: properties of the machine.
        translated: devices on the machine's bus are behind it.
        programmed: a driver of it (qap.iommu) maps I/O virtual addresses for the device.
    """

    device: dict[str, Property] | None = None
    machine: str = ""
    translated: bool = True
    programmed: bool = False


class BackendRow(Model):
    """What is behind a device, and which feature bits it offers.

    Attributes:
        device: the only one that it serves, if it is a real program.
    """

    kind: Literal["in-qemu", "python", "kernel", "real"]
    device: str = ""
    access_platform: bool = False
    version_1: bool = True
    ring_packed: bool = False


class DriverRow(Model):
    """A driver's behaviour; see qap.oracle.fence.Conduct for what it shares with that."""

    purpose: str
    legacy: bool = False
    version_1: bool = True
    access_platform: bool = True
    packed: bool = False
    features_ok: oracle.FeaturesOk = "alone"
    obeys: bool = True
    kicks: oracle.Kicks = "served"
    starts: bool = True
    again: bool = False
    reads_config: bool = False
    unplugs: bool = False

    @property
    def conduct(self) -> oracle.Conduct:
        """The part that decides what it is to get."""
        return oracle.Conduct(
            legacy=self.legacy,
            version_1=self.version_1,
            access_platform=self.access_platform,
            features_ok=self.features_ok,
            obeys=self.obeys,
            kicks=self.kicks,
            starts=self.starts,
        )


class LaterRow(Model):
    """What becomes of a device while it is driven.

    Attributes:
        leaves: its back-end goes for good.
        returns: its back-end goes, and one comes back.
        loses: what that one doesn't offer any more, by name.
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


class Probe(Model):
    """A buffer that proves service.

    Attributes:
        out: bytes for the device in hexadecimal, spaces ignored.
        drop: how many of them at the end are left out.
        room: bytes that the device may write.
        others: queues that have to be set up beside it.
    """

    queue: int
    others: tuple[int, ...] = ()
    out: str = ""
    drop: int = 0
    room: int = 0

    @property
    def data(self) -> bytes:
        raw = bytes.fromhex(self.out)
        return raw[: len(raw) - self.drop]


class DeviceRow(Model):
    """A device type.

    Attributes:
        names: the -device type by transport, where it isn't the obvious one.
        transports: those that QEMU has for it.
        machines: the only ones that take it.
        place: where it goes, if not where the machine says.
        legacy: it has a legacy interface, and so properties that choose.
        accepts: feature bits of its own that a modern driver has to accept.
        config: bytes of device configuration that stay the same while it is driven.
        hotplug: why it is never hot-plugged; "" if it can be.
        alone: why it can't be on a machine with a vIOMMU.
        reconnects: it connects again when its back-end has gone.
        needs: what this machine lacks for it; "" if nothing.
    """

    names: dict[Transport, str] = Field(default_factory=dict)
    transports: tuple[Transport, ...] = ("pci", "mmio", "ccw")
    machines: tuple[str, ...] = ()
    place: dict[str, str] = Field(default_factory=dict)
    properties: dict[str, Property] = Field(default_factory=dict)
    args: tuple[str, ...] = ()
    legacy: bool = False
    accepts: tuple[int, ...] = ()
    config: int = 0
    vhost_user: bool = False
    kernel: bool = False
    hotplug: str = ""
    alone: str = ""
    reconnects: bool = False
    needs: str = ""
    probe: Probe | None = None

    @property
    def backend(self) -> str:
        """The kind of back-end that it takes."""
        return "kernel" if self.kernel else "python" if self.vhost_user else "in-qemu"


class Plan(Model):
    """A product of axes; "*" stands for everything that fits."""

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

    machine: dict[str, MachineRow]
    viommu: dict[str, ViommuRow]
    backend: dict[str, BackendRow]
    driver: dict[str, DriverRow]
    later: dict[str, LaterRow]
    fence: dict[str, FenceRow]
    device: dict[str, DeviceRow]
    plan: tuple[Plan, ...]


@cache
def tables() -> MatrixTables:
    """The tables, with every name in a plan looked up.

    Raises:
        UsageError: the file is wrong.
    """
    found = checked(MatrixTables, read(PATH), PATH)
    for number, plan in enumerate(found.plan, 1):
        machine = found.machine.get(plan.machine)
        _known(number, "machine", (plan.machine,), found.machine)
        assert machine is not None
        _known(number, "interface", plan.interface, machine.interface)
        _known(number, "viommu", plan.viommu, found.viommu)
        _known(number, "device", plan.device, found.device)
        _known(number, "backend", plan.backend, found.backend)
        _known(number, "driver", plan.driver, found.driver)
        _known(number, "later", plan.later, found.later)
        _known(number, "fence", plan.fence, found.fence)
    return found


def _known(number: int, axis: str, names: tuple[str, ...], valid: object) -> None:
    assert isinstance(valid, dict)
    for name in names:
        if name != EVERY and name not in valid:
            raise UsageError(
                f"configs/matrix.toml: plan {number} names the {axis} {name!r}, which isn't there"
            )
