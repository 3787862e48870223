"""The outcome helper: a device that goes on, one that breaks, and a QEMU that ends or hangs."""

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from qap.fork.build import Build
from qap.hw.s390x_cpu import Cpu
from qap.hw.s390x_stub import CODE
from qap.machine.guest_memory import GuestMemory
from qap.machine.machine import Machine, QemuDied
from qap.machine.qtest import QemuHangs
from qap.virtio.ccw import VirtioCcw
from qap.virtio.driver import Behaviour, Driver
from qap.virtio.outcome import Outcome, outcome
from qap.virtio.rng import Rng
from qap.virtio.split import DESC_F_NEXT, DESC_F_WRITE
from qap.virtio.transports import TRANSPORTS

Start = Callable[[str], tuple[Machine, Driver]]
MODERN = [name for name in TRANSPORTS if name not in ("pci legacy", "mmio 1", "ccw 0")]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """A machine with an entropy device, and its driver after negotiation."""
    with ExitStack() as owned:

        def started(name: str) -> tuple[Machine, Driver]:
            variant = TRANSPORTS[name]
            binary = Build.under_test().path(variant.emulator)
            spec = variant.spec("virtio-rng")
            machine = owned.enter_context(Machine(binary, spec, log=tmp_path / "qemu.log"))
            transport = variant.connect(machine)
            legacy = transport.legacy
            behaviour = Behaviour(supports=0, sets_features_ok=False) if legacy else Behaviour()
            driver = Driver(transport, GuestMemory(machine.qtest), behaviour)
            driver.negotiate()
            return machine, driver

        yield started


def works(driver: Driver) -> None:
    assert Rng(driver).read(1)


def expected(name: str, *, broken: bool) -> Outcome:
    generation = {"pci modern": int(broken), "mmio 2": int(broken)}.get(name)
    needs_reset = None if name in ("ccw 0", "ccw 1") else broken
    isr = {"pci modern": 3, "mmio 2": 3}.get(name, 2) if broken else 0
    return Outcome(True, None, needs_reset, isr, generation, recovers=True)


@pytest.mark.parametrize("name", TRANSPORTS)
def test_device_that_was_not_touched_works(start: Start, name: str) -> None:
    machine, driver = start(name)
    assert outcome(machine, driver, works) == expected(name, broken=False)


@pytest.mark.parametrize("name", MODERN)
def test_device_that_breaks_works_after_a_reset(start: Start, name: str) -> None:
    machine, driver = start(name)
    ring = driver.raw_queue(0)
    driver.start()
    ring.put(0, driver.memory.take(16), 16, DESC_F_WRITE | DESC_F_NEXT, next=0)
    ring.offer(0)
    driver.transport.notify(0)
    assert outcome(machine, driver, works) == expected(name, broken=True)


def test_device_that_does_not_work_again_has_not_recovered(start: Start) -> None:
    machine, driver = start("pci modern")

    def fails(_: Driver) -> None:
        raise TimeoutError

    assert not outcome(machine, driver, fails).recovers


@pytest.mark.parametrize("name", TRANSPORTS)
def test_qemu_that_ended_is_not_alive(start: Start, name: str) -> None:
    machine, driver = start(name)
    os.kill(machine.process.pid, signal.SIGABRT)
    found = outcome(machine, driver, works)
    assert not found.alive
    assert isinstance(found.ended, QemuDied)
    assert found.ended.status == -signal.SIGABRT


@pytest.mark.parametrize("name", ["pci modern", "ccw 2"])
def test_qemu_that_hangs_is_told_apart(start: Start, name: str) -> None:
    """Here it is stopped by a signal."""
    machine, driver = start(name)
    machine.qtest.timeout = 0.5
    if isinstance(driver.transport, VirtioCcw):
        driver.transport.subchannel.cpu.timeout = 0.5
    os.kill(machine.process.pid, signal.SIGSTOP)
    try:
        found = outcome(machine, driver, works)
    finally:
        os.kill(machine.process.pid, signal.SIGCONT)
    assert not found.alive
    assert isinstance(found.ended, QemuHangs)


def test_broken_stub_is_no_hang_of_qemu(start: Start) -> None:
    machine, driver = start("ccw 2")
    assert isinstance(driver.transport, VirtioCcw)
    cpu: Cpu = driver.transport.subchannel.cpu
    cpu.timeout = 0.5
    machine.qtest.memset(CODE, 0x100, 0)
    with pytest.raises(TimeoutError, match="QEMU answers, the CPU does not") as raised:
        driver.transport.status  # noqa: B018
    assert not isinstance(raised.value, QemuHangs)
