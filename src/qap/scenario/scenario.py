"""Scenarios: a guest, a device and how it is plugged, as data."""

from collections.abc import Mapping
from functools import cache
from typing import Self

from pydantic import model_validator

from qap.explain.backend import features
from qap.host.errors import UsageError, unknown_name
from qap.host.paths import data
from qap.host.toml import checked, read
from qap.machine import catalog
from qap.machine.catalog import (
    Between,
    DeviceType,
    GuestCheck,
    MachineType,
    Place,
    Transport,
    device_types,
    machine_types,
    viommus,
)
from qap.machine.device import Device
from qap.machine.place import check_place
from qap.oracle import fence, offered
from qap.scenario.choices import OPTIONS, Choices
from qap.scenario.confidential_kind import ConfidentialKind
from qap.scenario.events import check_events


class Scenario(Choices):
    """What to boot, what to plug into it, and how.

    Attributes:
        guest: a name of configs/guests.toml.
        device: a name of configs/devices.toml, without the transport.
        machine: a machine type other than the guest's own.
        features: what a back-end in Python offers, as `qap.explain.backend.features` takes it.
        confidential: which simulated confidential guest it is; None for none.
        base: what stock QEMU does; None if it is not known.
    """

    name: str = ""
    guest: str
    device: str
    machine: str | None = None
    features: str = ""
    confidential: ConfidentialKind | None = None
    base: fence.Outcome | None = None

    @model_validator(mode="after")
    def _known(self) -> Self:
        catalog.guest(self.guest)
        if self.machine is not None and self.machine not in machine_types():
            raise unknown_name("machine", self.machine, machine_types())
        if why := no_guest(self.machine_type, self.kind_named, self.features):
            raise UsageError(why)
        if self.machine_type.qemu != self.settings.qemu:
            raise UsageError(f"the guest {self.guest} doesn't boot on {self.machine_type.name}")
        if self.viommu not in viommus():
            raise unknown_name("vIOMMU", self.viommu, viommus())
        if self.transport not in self.kind.every_transport:
            raise UsageError(
                f"{self.device} has no {self.transport} transport in QEMU, "
                f"which the guest {self.guest} needs"
            )
        if self.confidential and self.confidential.traits.target != self.settings.qemu:
            raise UsageError(f"{self.guest} can't be {self.confidential.traits.title}")
        if self.confidential and self.viommu != "none":
            raise UsageError(
                "a simulated confidential guest can't have a vIOMMU: leave out --viommu"
            )
        check_place(self.machine_type, self.kind, plug=self.plug, behind=self.behind)
        if self.viommu != "none" and self.viommu not in self.machine_type.viommus:
            raise UsageError(f"{self.machine_type.name} takes no {self.viommu}")
        if self.bypass and (self._place.own_root or not self.machine_type.bypass):
            where = self.behind or self.machine_type.name
            raise UsageError(f"{where} can't bypass a vIOMMU")
        self._check_options()
        return self

    def _check_options(self) -> None:
        if self.features:
            features(self.features)
            if self.kind.vhost_user is None:
                raise UsageError(f"{self.driver} is in QEMU: it has no back-end to be told of")
        if self.queues and not self.kind.queues:
            raise UsageError(f"{self.driver} has no property for how many queues it has")
        if self.iothread and not self.kind.iothread:
            raise UsageError(f"{self.driver} is not served by an iothread")
        if self.busy and self.plug == "cold":
            raise UsageError("--busy: nothing is read before the machine starts: add --hotplug")
        check_events(self.kind, self, confidential=self.confidential is not None)
        x86 = self.viommu in ("intel-iommu", "amd-iommu")
        if self.ats and not (self.transport == "pci" and x86):
            raise UsageError("ATS takes a device on PCI and --viommu intel-iommu or amd-iommu")

    @property
    def settings(self) -> catalog.Guest:
        return catalog.guest(self.guest)

    @property
    def kind_named(self) -> DeviceType:
        """The device type; raises UsageError if there is none of that name."""
        if self.device not in device_types():
            raise unknown_name("device", self.device, device_types())
        return self.kind

    @property
    def kind(self) -> DeviceType:
        return device_types()[self.device]

    @property
    def check(self) -> GuestCheck:
        """How the guest proves service."""
        assert self.kind.guest is not None
        return self.kind.guest

    @property
    def _place(self) -> Place:
        machine = self.machine_type
        if self.behind:
            return machine.behind[self.behind]
        ports = (machine.port,) if machine.port else ()
        return Place(devices=ports, place=self.kind.place or machine.place)

    @property
    def place(self) -> Mapping[str, object]:
        """Properties of the device that say where it is plugged."""
        return self._place.place

    @property
    def modern(self) -> Mapping[str, object]:
        """Properties with which a transitional device there is a modern one."""
        return self._place.modern if self.behind else self.machine_type.modern

    @property
    def ports(self) -> list[Device]:
        """What has to be on the machine for that."""
        return [dict(device) for device in self._place.devices]

    @property
    def can_translate(self) -> bool:
        """Whether what serves the device can serve it behind a vIOMMU."""
        return features(self.features).can if self.features else self.kind.can_translate

    @property
    def between(self) -> Between | None:
        """What stands between its back-end's chardev and the device, if anything does."""
        return self.kind.vhost_user.between if self.kind.vhost_user else None

    @property
    def packed_expected(self) -> bool:
        """Whether the driver is to be offered packed rings."""
        in_qemu = self.kind.vhost_user is None
        offers = in_qemu or (bool(self.features) and features(self.features).ring_packed)
        return offered.ring_packed(asked=self.packed, backend_offers=offers)

    @property
    def reconnects(self) -> bool:
        """Whether QEMU connects again to a back-end that was killed."""
        vhost_user = self.kind.vhost_user
        return bool(self.kill_backend and vhost_user and vhost_user.reconnects)

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
        return self.machine_type.translates or (self.viommu != "none" and not self.bypass)

    def expected(self, *, is_base: bool = False) -> fence.Expectation:
        """The row of the fence table; a guest on the base is not a confidential one."""
        plugged = fence.plug(
            requested=self.iommu_platform,
            translated=self.translated,
            backend_can=self.can_translate,
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

    @property
    def title(self) -> str:
        """The scenario in a few words."""
        words = [self.machine_type.name, self.driver, self.plug]
        if self.viommu != "none":
            words.append(self.viommu)
            if self.plug == "cold":
                words.append(f"{self.order} the device")
        if self.behind:
            words.append(f"behind {self.behind}")
        if self.bypass:
            words.append("bypassed")
        if self.features:
            words.append(f"its back-end offers {self.features}")
        if self.queues:
            words.append(f"{self.queues} queues")
        words += [name.replace("_", "-") for name in OPTIONS if getattr(self, name)]
        words += [f"back-end killed while {self.kill_backend}"] if self.kill_backend else []
        if not self.iommu_platform:
            words.append("iommu_platform=off")
        if self.confidential:
            words.append(f"as {self.confidential.traits.title}")
        return ", ".join(words)


def no_guest(machine: MachineType, kind: DeviceType, told: str = "") -> str:
    """Why no guest here shows such a device; "" if one does.

    Args:
        told: what its back-end is told to offer.
    """
    if not machine.guest:
        return f"no guest here boots on {machine.name}"
    if kind.guest is None:
        return f"no guest here drives {kind.name}"
    if catalog.guest(machine.guest).architecture in kind.guest.not_on:
        return f"no driver of Debian's kernel for {machine.guest} works with {kind.name}"
    if told and kind.program:
        return f"{kind.program}, with which a guest is shown {kind.name}, offers what it offers"
    if told and not features(told).version_1:
        return "a guest's driver wants VERSION_1"
    return ""


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
