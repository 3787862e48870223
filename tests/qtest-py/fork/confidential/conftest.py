"""Secure Execution guests that Python drives."""

from collections.abc import Callable
from pathlib import Path

import pytest

from qap.hw.s390x_cpu import Cpu
from qap.hw.s390x_stub import kernel_option
from qap.hw.ultravisor import Ultravisor
from qap.machine.device import Device
from qap.machine.machine import Machine, QemuDied
from qap.machine.spec import Spec
from qap.verify.kit.lab import Lab
from qap.verify.kit.se_guest import (
    DISK,
    IN_USE,
    MEMORY,
    SIMULATION,
    PageEach,
    SeGuest,
    Start,
)


@pytest.fixture
def start(lab: Lab, disk: Path) -> Start:
    """Starts an s390-ccw-virtio with the simulation, the disk, and Python's CPU."""

    def started(
        *devices: Device,
        machine: str = IN_USE,
        simulation: str = SIMULATION,
        accel: str = "tcg",
        cpu: str = "max",
        extra: tuple[str, ...] = (),
    ) -> SeGuest:
        spec = Spec(
            machine=machine,
            accel=accel,
            cpu=cpu,
            memory=MEMORY,
            devices=[DISK, *devices],
            blockdevs=[f"driver=file,locking=off,node-name=disk0,filename={disk}"],
            extra=["-object", simulation, *kernel_option(lab.folder), *extra],
            qtest=True,
        )
        running = lab.owned.enter_context(
            Machine(lab.build.path("qemu-system-s390x"), spec, log=lab.log())
        )
        processor = Cpu(running.qtest, running.serial)
        return SeGuest(running, processor, Ultravisor(processor), PageEach(running.qtest))

    return started


@pytest.fixture
def refused(start: Start) -> Callable[..., str]:
    """What QEMU says when it refuses to start."""

    def said(*devices: Device, **options: object) -> str:
        with pytest.raises(QemuDied) as died:
            start(*devices, **options)
        assert died.value.status == 1, died.value.detail
        return died.value.said

    return said
