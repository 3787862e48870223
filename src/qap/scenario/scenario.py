"""Scenarios: a guest, a device and how it is plugged, as data."""

from functools import cache
from typing import Literal, Self

from pydantic import model_validator

from qap.host.errors import UsageError, unknown_name
from qap.host.paths import data
from qap.host.toml import Model, checked, read
from qap.machine import catalog
from qap.machine.catalog import (
    DeviceType,
    MachineType,
    Transport,
    device_types,
    machine_types,
    viommus,
)
from qap.oracle import fence
from qap.scenario.confidential_kind import ConfidentialKind

Plug = Literal["cold", "hot", "replug"]
Order = Literal["before", "after"]


class Scenario(Model):
    """What to boot, what to plug into it, and how.

    Attributes:
        guest: a name of configs/guests.toml.
        device: a name of configs/devices.toml, without the transport.
        plug: cold, hot, or replug: hot, out, and in again.
        machine: a machine type other than the guest's own.
        viommu: a name of configs/viommus.toml.
        order: the vIOMMU's place on the command line, seen from the device.
        bypass: the root bus bypasses the vIOMMU (default-bus-bypass-iommu).
        confidential: which simulated confidential guest it is; None for none.
        base: what stock QEMU does; None if it is not known.
    """

    name: str = ""
    guest: str
    device: str
    plug: Plug = "cold"
    iommu_platform: bool = True
    machine: str | None = None
    viommu: str = "none"
    order: Order = "before"
    bypass: bool = False
    confidential: ConfidentialKind | None = None
    base: fence.Outcome | None = None

    @model_validator(mode="after")
    def _known(self) -> Self:
        catalog.guest(self.guest)
        if self.machine is not None and self.machine not in machine_types():
            raise unknown_name("machine", self.machine, machine_types())
        if not self.machine_type.guest:
            raise UsageError(f"no guest here boots on {self.machine_type.name}")
        if self.machine_type.qemu != self.settings.qemu:
            raise UsageError(f"the guest {self.guest} doesn't boot on {self.machine_type.name}")
        if self.device not in device_types():
            raise unknown_name("device", self.device, device_types())
        if self.viommu not in viommus():
            raise unknown_name("vIOMMU", self.viommu, viommus())
        if not self.kind.guest:
            raise UsageError(
                f"no guest here drives {self.device}: qap repro --cell shows it without a guest"
            )
        if self.transport not in (*self.kind.transports, *self.kind.fork_transports):
            raise UsageError(
                f"{self.device} has no {self.transport} transport in QEMU, "
                f"which the guest {self.guest} needs"
            )
        if self.confidential and self.confidential.traits.target != self.settings.qemu:
            raise UsageError(f"{self.guest} can't be {self.confidential.traits.title}")
        if self.viommu != "none" and self.viommu not in self.machine_type.viommus:
            raise UsageError(f"{self.machine_type.name} takes no {self.viommu}")
        if self.bypass and not self.machine_type.bypass:
            raise UsageError(f"{self.machine_type.name} can't bypass a vIOMMU")
        return self

    @property
    def settings(self) -> catalog.Guest:
        return catalog.guest(self.guest)

    @property
    def kind(self) -> DeviceType:
        return device_types()[self.device]

    @property
    def machine_type(self) -> MachineType:
        return machine_types()[self.machine or self.settings.machine]

    @property
    def transport(self) -> Transport:
        return self.machine_type.transport

    @property
    def driver(self) -> str:
        """The device's type as -device takes it."""
        return self.kind.driver(self.transport)

    @property
    def translated(self) -> bool:
        """Whether the bus is behind an IOMMU once the machine is complete."""
        return self.viommu != "none" and not self.bypass

    def expected(self, *, is_base: bool = False) -> fence.Expectation:
        """The row of the fence table; a guest on the base is not a confidential one."""
        plugged = fence.plug(
            requested=self.iommu_platform,
            translated=self.translated,
            backend_can=self.kind.can_translate,
        )
        demands = self.confidential is not None and not is_base
        return fence.driven(plugged, declines=self.kind.declined, demands=demands)

    def remedy(self, expected: fence.Expectation) -> str:
        """What helps where the guest's driver fails; "" where it doesn't."""
        if expected.outcome != fence.Outcome.UNSERVED:
            return ""
        if not self.kind.declined:
            return "iommu_platform=on"
        if self.confidential:
            return f"none: a confidential guest can't use {self.kind.name}"
        return "iommu_platform=off for this device"

    def repro(self, is_base: bool = False) -> str:
        """The `qap repro` command for it."""
        words = ["./qap repro", f"--machine {self.machine_type.name}", f"--device {self.driver}"]
        if self.guest != self.machine_type.guest:
            words.append(f"--guest {self.guest}")
        words += {"cold": [], "hot": ["--hotplug"], "replug": ["--replug"]}[self.plug]
        if self.viommu != "none":
            words += [f"--viommu {self.viommu}", f"--order {self.order}"]
        words += ["--bypass"] if self.bypass else []
        words += [f"--confidential {self.confidential}"] if self.confidential else []
        words += [] if self.iommu_platform else ["--no-iommu-platform"]
        words += ["--base"] if is_base else []
        return " ".join(words)

    @property
    def title(self) -> str:
        """The scenario in a few words."""
        words = [self.machine_type.name, self.driver, self.plug]
        if self.viommu != "none":
            words.append(self.viommu)
            if self.plug == "cold":
                words.append(f"{self.order} the device")
        if self.bypass:
            words.append("bypassed")
        if not self.iommu_platform:
            words.append("iommu_platform=off")
        if self.confidential:
            words.append(f"as {self.confidential.traits.title}")
        return ", ".join(words)


@cache
def scenarios() -> dict[str, Scenario]:
    path = data() / "scenarios.toml"
    return {
        name: checked(Scenario, {**row, "name": name}, path, name)
        for name, row in read(path).items()
    }


def scenario(name: str) -> Scenario:
    """A scenario of configs/scenarios.toml.

    Raises:
        UsageError: no such scenario.
    """
    if name not in scenarios():
        raise unknown_name("scenario", name, scenarios())
    return scenarios()[name]
