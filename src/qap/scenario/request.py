"""What `qap repro` is asked for, as data."""

from typing import Literal, Self

from pydantic import model_validator

from qap.fork.build import Build
from qap.host.errors import UsageError
from qap.host.paths import Project
from qap.machine.asked import asked
from qap.machine.catalog import DeviceType, MachineType
from qap.scenario.choices import OPTIONS, Choices
from qap.scenario.scenario import Scenario, no_guest

# What a guest alone shows.
GUEST_ONLY = ("guest", "confidential", "busy", "fail_requests")


class Request(Choices):
    """A case to reproduce: a cell of the matrix, or a device on a machine.

    Attributes:
        cell: a name of a cell, which says all of that; "" for a device.
        backend: what a back-end in Python offers; "" for the usual.
        later: what becomes of the device, by configs/matrix.toml; "" for nothing.
        no_guest: at device level, even where a guest would do.
        machine, device: as `qap.machine.asked.asked` takes them.
        guest: a name of configs/guests.toml; the machine's own if None.
        confidential: which simulated confidential guest it is; None for none.
        profile, base, base_series: of the build.
    """

    cell: str = ""
    machine: str = ""
    device: str = ""
    guest: str | None = None
    confidential: Literal["se", "sev", "snp", "tdx"] | None = None
    backend: str = ""
    later: str = ""
    no_guest: bool = False
    profile: str = "lab"
    base: bool = False
    base_series: str | None = None

    @model_validator(mode="after")
    def _known(self) -> Self:
        if self.fail_requests and self.base:
            raise UsageError("stock QEMU has no x-fail-requests: leave out --fail-requests")
        return self

    @classmethod
    def of(cls, scenario: Scenario, build: Build) -> Self:
        """What asks for this scenario on this build."""
        place, kind = scenario.machine_type, scenario.kind
        # Of two with the same name, -device's is the first one's.
        is_plain = asked(place.called, scenario.driver) == (place, kind)
        choices = {name: getattr(scenario, name) for name in Choices.model_fields}
        told = scenario.confidential
        return cls.model_validate(
            {
                **choices,
                "machine": place.called,
                "device": scenario.driver if is_plain else kind.name,
                "guest": None if scenario.guest == place.guest else scenario.guest,
                "confidential": str(told) if told else None,
                "backend": scenario.features,
                "profile": build.profile,
                "base": build.is_base,
                "base_series": build.project.base_series,
            }
        )

    @property
    def choices(self) -> dict[str, object]:
        """What is chosen, by the names that Scenario has for it, too."""
        return {name: getattr(self, name) for name in Choices.model_fields}

    @property
    def build(self) -> Build:
        """What it is shown on.

        Raises:
            UsageError: there is no such base.
        """
        return Build(self.profile, self.base, Project.here(self.base_series))

    def without_guest(self, machine: MachineType, kind: DeviceType) -> str:
        """Why it is shown at device level; "" if a guest shows it.

        Raises:
            UsageError: something that is asked for takes a guest, and there is none.
        """
        why = no_guest(machine, kind, self.backend)
        if self.later:
            why = why or "--later is shown at device level"
        if self.no_guest:
            why = "--no-guest"
        given = [f"--{name.replace('_', '-')}" for name in GUEST_ONLY if getattr(self, name)]
        if why and given:
            raise UsageError(f"{', '.join(given)}: that takes a guest, and {why}")
        return why

    @property
    def command(self) -> str:
        """The command for it, wherever it is shown."""
        words = ["./qap repro", f"--machine {self.machine}", f"--device {self.device}"]
        words += [f"--guest {self.guest}"] if self.guest else []
        words += {"cold": [], "hot": ["--hotplug"], "replug": ["--replug"]}[self.plug]
        if self.viommu != "none":
            words += [f"--viommu {self.viommu}", f"--order {self.order}"]
        words += [f"--behind {self.behind}"] if self.behind else []
        words += ["--bypass"] if self.bypass else []
        words += [] if self.iommu_platform else ["--no-iommu-platform"]
        words += [f"--backend {self.backend}"] if self.backend else []
        words += [f"--queues {self.queues}"] if self.queues else []
        words += [f"--{name.replace('_', '-')}" for name in OPTIONS if getattr(self, name)]
        words += [f"--kill-backend {self.kill_backend}"] if self.kill_backend else []
        words += [f"--confidential {self.confidential}"] if self.confidential else []
        words += [f"--later {self.later}"] if self.later else []
        words += ["--no-guest"] if self.no_guest else []
        words += [f"--profile {self.profile}"] if self.profile != "lab" else []
        words += ["--base"] if self.base else []
        return " ".join(words) + self.build.project.option
