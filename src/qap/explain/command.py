"""A command line as typed records: what of it matters to virtio, and what isn't understood."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from qap.explain.opts import Opts


@dataclass(frozen=True)
class Item:
    """An option that makes something, or a command of the monitor that does.

    Attributes:
        option: such as -device; device_add for one of the monitor.
        said: its value as it was given, for messages.
    """

    option: str
    opts: Opts
    said: str = ""

    @property
    def id(self) -> str:
        return self.opts.get("id")

    @property
    def hot(self) -> bool:
        """Whether it comes when the machine runs."""
        return not self.option.startswith("-")


@dataclass(frozen=True)
class Global:
    """-global: a property of every device of a type, or of a type derived from it."""

    driver: str
    property: str
    value: str


@dataclass
class Command:
    """A command line, with what was told to the monitor after it.

    Attributes:
        program: its path; "" if a configuration file alone was given.
        machine: -machine's properties; those of several are in their order.
        devices: -device and device_add in their order, and those that other options imply.
        objects, netdevs, chardevs, fsdevs, drives: by id.
        nics: -nic, and -net of type nic.
        numa: -numa, in their order.
        nodefaults: no devices but those that are named.
        no_nic: a network option is there, so the machine's own network device is not.
        removed: ids of devices that were unplugged in the end.
        said: what QEMU said after its start.
        left: what was not understood and may matter, a line each.
        notes: what was taken for what, a line each.
    """

    program: str
    machine: Opts = field(default_factory=lambda: Opts(()))
    devices: list[Item] = field(default_factory=list)
    objects: dict[str, Opts] = field(default_factory=dict)
    netdevs: dict[str, Opts] = field(default_factory=dict)
    chardevs: dict[str, Opts] = field(default_factory=dict)
    fsdevs: dict[str, Opts] = field(default_factory=dict)
    drives: list[Item] = field(default_factory=list)
    nics: list[Item] = field(default_factory=list)
    numa: list[Opts] = field(default_factory=list)
    globals: list[Global] = field(default_factory=list)
    nodefaults: bool = False
    no_nic: bool = False
    removed: set[str] = field(default_factory=set)
    said: str = ""
    left: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def tables(self) -> Mapping[str, dict[str, Opts]]:
        """What has an id, by the name of its group."""
        return {
            "object": self.objects,
            "netdev": self.netdevs,
            "chardev": self.chardevs,
            "fsdev": self.fsdevs,
        }
