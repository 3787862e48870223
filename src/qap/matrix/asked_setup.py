"""A device as it is plugged, with what no plan of the matrix varies."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from qap.host.errors import UsageError
from qap.machine.catalog import DeviceType, MachineType, Property
from qap.matrix.setup import Setup

IOTHREAD = "iothread0"


@dataclass(frozen=True)
class Beside:
    """What can be asked for beside the axes of the matrix.

    Attributes:
        behind: another place of the machine; "" for the usual one.
        queues: how many request queues the driver uses; 0 for as many as its probe needs.
        iothread: one serves the device.
        ats: its driver uses its address translation service.
    """

    behind: str = ""
    queues: int = 0
    iothread: bool = False
    ats: bool = False


@dataclass(frozen=True)
class AskedSetup(Setup):
    """A device that somebody asks for; see Setup."""

    beside: Beside = field(default_factory=Beside)

    @property
    def ports(self) -> Sequence[Mapping[str, Property]]:
        behind = self.beside.behind
        return super().machine_row.behind[behind].devices if behind else super().ports

    @property
    def more(self) -> Mapping[str, str]:
        asked = {"behind": self.beside.behind, "queues": str(self.beside.queues or "")}
        asked |= {name: "on" if vars(self.beside)[name] else "" for name in ("iothread", "ats")}
        return {name: value for name, value in asked.items() if value}

    @property
    def roots(self) -> tuple[int, ...]:
        """Of the machine, and of the place's own root bus."""
        numbers = [port["bus_nr"] for port in self.ports if "bus_nr" in port]
        return (0, *(int(number) for number in numbers))

    @property
    def ats(self) -> bool:
        return self.beside.ats

    @property
    def machine_row(self) -> MachineType:
        row, behind = super().machine_row, self.beside.behind
        return row.model_copy(update={"place": row.behind[behind].place}) if behind else row

    @property
    def device_row(self) -> DeviceType:
        row, beside = super().device_row, self.beside
        properties, args, probe = dict(row.properties), row.args, row.probe
        if beside.queues:
            assert probe is not None
            properties[row.queues] = beside.queues
            last = probe.queue + beside.queues - 1
            probe = probe.model_copy(update={"queue": last, "others": tuple(range(last))})
        if beside.iothread:
            properties["iothread"] = IOTHREAD
            args = ("-object", f"iothread,id={IOTHREAD}", *args)
        return row.model_copy(update={"properties": properties, "args": args, "probe": probe})


class Plugged(Protocol):
    """How it is plugged."""

    @property
    def plug(self) -> str: ...
    @property
    def viommu(self) -> str: ...
    @property
    def bypass(self) -> bool: ...


def check_beside(machine: MachineType, kind: DeviceType, asked: Plugged, beside: Beside) -> None:
    """Refuse what can't be done without a guest.

    Raises:
        UsageError: says why.
    """
    driver = kind.driver(machine.transport)
    if beside.behind and asked.plug != "cold":
        raise UsageError("at device level --behind goes without --hotplug: no driver plugs there")
    if beside.behind and asked.bypass and machine.behind[beside.behind].own_root:
        raise UsageError(f"{beside.behind} can't bypass a vIOMMU")
    if beside.queues and not kind.queues:
        raise UsageError(f"{driver} has no property for how many queues it has")
    if beside.iothread and not kind.iothread:
        raise UsageError(f"{driver} is not served by an iothread")
    if beside.ats and (asked.viommu != "intel-iommu" or asked.bypass):
        raise UsageError("at device level --ats takes --viommu intel-iommu, and no --bypass")
    if kind.kernel and beside != Beside():
        raise UsageError(
            f"{kind.name} runs in the kernel lab: leave out --behind, --queues, --iothread, --ats"
        )
