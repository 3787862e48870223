"""configs/lab.toml: the guest L1, and what can be run in it."""

from functools import cache

from pydantic import Field

from qap.host import toml
from qap.host.paths import data

FILE = "lab.toml"


class L1Settings(toml.Model):
    """The guest that has the kernel's devices.

    Attributes:
        guest: a name of configs/guests.toml.
        memory: RAM in MiB, for it and all QEMUs in it.
        processors: how many.
        cpu: QEMU's CPU model.
        append: kernel parameters beside the guest's own.
        modules: kernel modules to load at every boot.
        netdevs: values of -netdev, for devices that name one.
        devices: what its machine has beside channels and shares, in the command line's order.
        up: seconds that its console may be silent from its start to the first command.
    """

    guest: str
    memory: int = Field(gt=0)
    processors: int = Field(gt=0)
    cpu: str
    append: str = ""
    modules: tuple[str, ...]
    netdevs: tuple[str, ...] = ()
    devices: tuple[dict[str, str | bool | int], ...] = ()
    up: float = Field(gt=0)


class LabScenario(toml.Model):
    """A folder of tests that need the kernel's devices.

    Attributes:
        name: of the section, and of the folder in tests/lab.
        purpose: what it shows, in a line.
    """

    name: str
    purpose: str


class LabSettings(toml.Model):
    """All of configs/lab.toml."""

    l1: L1Settings
    scenario: dict[str, dict[str, str]]

    @property
    def scenarios(self) -> dict[str, LabScenario]:
        """By name, in the file's order."""
        path = data() / FILE
        return {
            name: toml.checked(LabScenario, {"name": name, **values}, path, name)
            for name, values in self.scenario.items()
        }


@cache
def settings() -> LabSettings:
    """What configs/lab.toml says; raises UsageError where it is wrong."""
    path = data() / FILE
    return toml.checked(LabSettings, toml.read(path), path, FILE)
