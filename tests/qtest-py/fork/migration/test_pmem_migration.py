"""A virtio-pmem moves with its driver, and with the interrupt that the driver has not seen."""

from dataclasses import replace

import pytest

from qap.fork.build import Build
from qap.hw.pci_bus import PciBus
from qap.machine.catalog import device_types
from qap.machine.guest_memory import MIB, GuestMemory
from qap.machine.machine import Machine
from qap.machine.qtest_follow import MovingQtest
from qap.machine.spec import Spec
from qap.verify.kit.checks import assert_lives, reset_machine
from qap.verify.kit.lab import Lab
from qap.verify.kit.migrate import ARRIVED, migrate
from qap.virtio.driver import Driver
from qap.virtio.pci_modern import VENDOR_ID, PciModern
from qap.virtio.queue import Buffer, Queue

OLD, NEW = "pc-q35-9.2", "q35"
FLUSH = bytes(4)
ANSWER = 4
WAIT = ("-incoming", "defer")


def host(lab: Lab, build: Build, machine: str, extra: tuple[str, ...] = ()) -> Machine:
    row = device_types()["virtio-pmem"]
    card = {"driver": row.driver("pci"), **row.properties}
    spec = Spec(machine, "qtest", memory=128, devices=[card], extra=[*row.args, *extra], qtest=True)
    log = lab.folder / f"{build.name}-{len(extra)}.log"
    binary = build.path("qemu-system-x86_64")
    return lab.owned.enter_context(Machine(binary, spec, log=log))


def flush(driver: Driver, queue: Queue) -> None:
    """5.19.6.2: the answer is 0. Nobody acknowledges the interrupt."""
    answer = driver.memory.put(b"\xaa" * ANSWER)
    request = Buffer(driver.memory.put(FLUSH), len(FLUSH))
    driver.serve(queue, [request, Buffer(answer, ANSWER, writable=True)])
    assert driver.memory.read(answer, ANSWER) == bytes(ANSWER)


def test_driver_goes_on_and_the_machine_can_be_reset(lab: Lab) -> None:
    source, destination = host(lab, lab.build, NEW), host(lab, lab.build, NEW, WAIT)
    session = MovingQtest(source.qtest)
    driver = Driver(PciModern(PciBus(session).find(VENDOR_ID)), GuestMemory(session, 16 * MIB))
    driver.negotiate()
    queue = driver.queue(0)
    driver.start()
    flush(driver, queue)
    assert migrate(source, destination, lab.folder) == ARRIVED
    session.now = destination.qtest
    flush(driver, queue)
    reset_machine(destination)
    assert_lives(destination)


@pytest.mark.parametrize("forth", [False, True], ids=["from stock", "to stock"])
def test_old_machine_moves_as_it_did(lab: Lab, forth: bool) -> None:
    """Without the device's state, as stock QEMU has none."""
    builds = [replace(lab.build, is_base=is_base) for is_base in (not forth, forth)]
    source, destination = host(lab, builds[0], OLD), host(lab, builds[1], OLD, WAIT)
    assert migrate(source, destination, lab.folder) == ARRIVED
