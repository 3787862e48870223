"""Fixtures: machines without a guest, and Python vhost-user back-ends for them."""

import signal
import socket
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from qap.fork.build import Build
from qap.machine.catalog import machine_types, plain_types, viommus
from qap.machine.device import Device
from qap.machine.machine import Machine, QemuDied
from qap.machine.qmp import QmpRefused
from qap.machine.spec import Spec
from qap.vhost_user.backend import Backend
from qap.vhost_user.backends import backend
from qap.vhost_user.misbehave import Misbehaviour

Q35 = machine_types()["q35"]


@dataclass
class Lab:
    """Starts machines and back-ends, and ends them with the test."""

    build: Build
    folder: Path
    owned: ExitStack = field(default_factory=ExitStack)
    backends: list[Backend] = field(default_factory=list)

    def backend(
        self, kind: str, *misbehaviour: Misbehaviour, access_platform: bool = False
    ) -> Backend:
        """A back-end for a vhost-user device type, listening."""
        path = self.folder / f"{kind}-{len(self.backends)}.sock"
        started = self.owned.enter_context(
            backend(path, kind, access_platform=access_platform, misbehaviour=misbehaviour)
        )
        self.backends.append(started)
        return started

    def device(self, kind: str, behind: Backend, **properties: Any) -> Device:
        """The -pci device of this type in front of a back-end, with iommu_platform=on."""
        return {
            "driver": f"{kind}-pci",
            "id": "dut",
            "bus": "port0",
            "chardev": behind.path.stem,
            **plain_types()[kind].properties,
            "iommu_platform": True,
            **{name.replace("_", "-"): value for name, value in properties.items()},
        }

    def machine(
        self,
        *devices: Device,
        viommu: str = "none",
        order: str = "before",
        bypass: bool = False,
        **spec: Any,
    ) -> Machine:
        """A q35 with a root port, these devices, and a vIOMMU before or after them.

        Raises:
            QemuDied: QEMU refused its command line.
        """
        listed = [dict(Q35.port or {}), *devices]
        iommu = viommus()[viommu].device
        if iommu:
            listed.insert(0 if order == "before" else len(listed), dict(iommu))
        machine = "q35,default-bus-bypass-iommu=on" if bypass else "q35"
        chardevs = [f"socket,id={one.path.stem},path={one.path}" for one in self.backends]
        rendered = Spec(
            machine=machine,
            **{"accel": "qtest", "memory": 128, **spec},
            devices=listed,
            chardevs=chardevs,
        )
        binary = self.build.path("qemu-system-x86_64")
        started = Machine(binary, rendered, log=self.folder / "qemu.log")
        return self.owned.enter_context(started)

    def listening(self, path: Path) -> socket.socket:
        """A Unix socket that listens on `path`; closed by its context or the test's end."""
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.owned.callback(listener.close)
        listener.bind(str(path))
        listener.listen(1)
        return listener

    def cold_refusal(self, *devices: Device, **options: Any) -> str:
        """What QEMU says when it refuses these devices at start; "" if it starts."""
        try:
            self.machine(*devices, **options)
        except QemuDied as died:
            assert died.status == 1, f"QEMU ended with status {died.status}: {died.said}"
            return died.said
        return ""


@pytest.fixture(scope="session", autouse=True)
def interruptible() -> None:
    """A shell ignores SIGINT for what it puts in the background, and children inherit that."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def refusal() -> Callable[[Machine, Device], str]:
    """What device_add says when it refuses a device; "" if it plugs."""

    def said(machine: Machine, device: Device) -> str:
        try:
            machine.plug(device)
        except QmpRefused as refused:
            return refused.said
        return ""

    return said


@pytest.fixture
def lab() -> Iterator[Lab]:
    """A lab on the build under test, in a folder with a short name: unix(7) has a limit."""
    with ExitStack() as owned:
        folder = owned.enter_context(tempfile.TemporaryDirectory(prefix="qap-"))
        yield Lab(Build.under_test(), Path(folder), owned)
