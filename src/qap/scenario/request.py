"""What `qap repro` is asked for, as data."""

from typing import Literal

from qap.fork.build import Build
from qap.host.errors import UsageError
from qap.host.paths import Project
from qap.machine.catalog import DeviceType, MachineType
from qap.scenario.choices import Choices
from qap.scenario.scenario import no_guest

# What a guest alone shows.
GUEST_ONLY = ("guest", "confidential", "behind", "queues", "iothread", "ats", "busy")


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
    confidential: Literal["se", "sev", "tdx"] | None = None
    backend: str = ""
    later: str = ""
    no_guest: bool = False
    profile: str = "lab"
    base: bool = False
    base_series: str | None = None

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
        given = [f"--{name}" for name in GUEST_ONLY if getattr(self, name)]
        if why and given:
            raise UsageError(f"{', '.join(given)}: that takes a guest, and {why}")
        return why

    @property
    def command(self) -> str:
        """The command for it, where it is shown at device level."""
        words = ["./qap repro", f"--machine {self.machine}", f"--device {self.device}"]
        words += {"cold": [], "hot": ["--hotplug"], "replug": ["--replug"]}[self.plug]
        if self.viommu != "none":
            words += [f"--viommu {self.viommu}", f"--order {self.order}"]
        words += ["--bypass"] if self.bypass else []
        words += [] if self.iommu_platform else ["--no-iommu-platform"]
        words += [f"--backend {self.backend}"] if self.backend else []
        words += ["--packed"] if self.packed else []
        words += [f"--later {self.later}"] if self.later else []
        words += ["--no-guest"] if self.no_guest else []
        words += [f"--profile {self.profile}"] if self.profile != "lab" else []
        words += ["--base"] if self.base else []
        return " ".join(words) + self.build.project.option
