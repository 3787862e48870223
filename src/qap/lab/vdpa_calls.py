"""What a vDPA device's driver in L1's kernel is asked: seen from the kernel's side."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from qap.lab.l1 import L1
from qap.lab.vdpa import Vdpa

TRACING = "/sys/kernel/tracing"
# struct vdpa_config_ops, by operation; values by the registers that hold them on x86-64, where
# the first one, %di, holds the device.
OPERATIONS = {
    "set_driver_features": {"features": "%si:x64"},
    "get_config": {"offset": "%si:u32", "len": "%cx:u32"},
    "set_config": {"offset": "%si:u32", "len": "%cx:u32"},
    "set_status": {"status": "%si:x8"},
    "reset": {},
}
LINE = re.compile(r" (\w+): \(\w+\+0x\w+/0x\w+ \[\w+\]\)(.*)$")


@dataclass(frozen=True)
class Call:
    """A call of an operation of struct vdpa_config_ops.

    Attributes:
        operation: one of OPERATIONS.
        values: of its arguments, by name.
    """

    operation: str
    values: tuple[int, ...] = ()


@dataclass(frozen=True)
class Calls:
    """The calls of a device driver's operations while a context lasts."""

    l1: L1
    parent: str

    def all(self) -> list[Call]:
        """Those so far, in their order."""
        return [
            Call(match[1], tuple(int(word.partition("=")[2], 0) for word in match[2].split()))
            for line in self.l1.agent.read(f"{_buffer(self.parent)}/trace").splitlines()
            if (match := LINE.search(line))
        ]

    def forget(self) -> None:
        """Count anew from here."""
        self.l1.agent.ask(f"clear {_buffer(self.parent)}/trace")


def _buffer(parent: str) -> str:
    return f"{TRACING}/instances/{parent}"


@contextmanager
def calls(l1: L1, device: Vdpa) -> Iterator[Calls]:
    """Record what the driver of this device is asked; it has no other device meanwhile.

    Raises:
        GuestCommandError: the kernel does not trace it.
    """
    parent, buffer = device.parent, _buffer(device.parent)
    events = f"{buffer}/events/{parent}/enable"
    probes = "".join(
        f"echo 'p:{parent}/{name} {parent}_{name} {_arguments(values)}' >>kprobe_events\n"
        for name, values in OPERATIONS.items()
    )
    l1.check(
        f"set -e; test -e {TRACING}/trace || mount -t tracefs tracing {TRACING}; cd {TRACING}\n"
        f"{probes}mkdir {buffer}; echo 1 >{events}"
    )
    try:
        yield Calls(l1, parent)
    finally:
        l1.check(
            f"echo 0 >{events}; rmdir {buffer}; cd {TRACING}; "
            + "; ".join(f"echo -:{parent}/{name} >>kprobe_events" for name in OPERATIONS)
        )


def _arguments(values: dict[str, str]) -> str:
    return " ".join(f"{name}={place}" for name, place in values.items())
