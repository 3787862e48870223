"""A device in an iothread interrupts its driver, and tells it of an error, on each transport."""

from dataclasses import replace

import pytest

from qap.host.wait import poll_until
from qap.hw.s390x_cpu import Cpu
from qap.hw.s390x_stub import kernel_option
from qap.hw.ultravisor import Ultravisor
from qap.machine.guest_memory import MIB, GuestMemory
from qap.machine.machine import Machine
from qap.machine.qtest import Qtest
from qap.machine.spec import Spec
from qap.oracle.features import FeatureBit, mask
from qap.oracle.status import Status
from qap.verify.kit.lab import Lab
from qap.verify.kit.se_guest import DISK as DISK_DEVICE
from qap.verify.kit.se_guest import IN_USE, SIMULATION, PageEach, SeGuest
from qap.virtio.driver import Behaviour, Driver
from qap.virtio.queue import Used
from qap.virtio.raw import RawQueue
from qap.virtio.split import DESC_F_NEXT, DESC_F_WRITE
from qap.virtio.transports import TRANSPORTS, Beside, TransportVariant

IOTHREAD = ("-object", "iothread,id=io0,poll-max-ns=0")
DISK = "driver=null-co,node-name=disk0,size=1048576,read-zeroes=on"
PROPERTIES: dict[str, dict[str, object]] = {
    "virtio-blk": {"drive": "disk0"},
    "virtio-scsi": {},
    "virtio-balloon": {"free-page-hint": True},
}
# The queue whose buffers the iothread takes (5.2.2, 5.5.2 with all its queues, 5.6.2).
QUEUES = {"virtio-blk": 0, "virtio-scsi": 2, "virtio-balloon": 3}
FREE_PAGE_HINT = 3
RINGS = {"split": 0, "packed": mask([FeatureBit.RING_PACKED])}
TOLD_S = 10.0
TURNS = 3
SCRATCH = 4 * MIB
QUEUE, CONFIG = 1, 2

# Intel 82093AA, 3.1: an I/O APIC's window, and its 24 redirection entries; microvm has two.
IO_APICS = (0xFEC0_0000, 0xFEC1_0000)
IO_WINDOW, REDIRECTION, PINS = 0x10, 0x10, 24
VECTOR = 0x41


def spec_of(variant: TransportVariant, kind: str) -> Spec:
    """A machine with a device of this type in an iothread."""
    blockdevs = [DISK] if kind == "virtio-blk" else []
    wanted = PROPERTIES[kind]
    beside = Beside(extra=IOTHREAD)
    return variant.spec(kind, blockdevs, beside, packed=True, iothread="io0", **wanted)


def driver_of(machine: Machine, name: str, kind: str, ring: str) -> tuple[Driver, RawQueue]:
    """A driver at DRIVER_OK, and the queue that the iothread has."""
    transport = TRANSPORTS[name].connect(machine)
    modern = 0 if transport.legacy else mask([FeatureBit.VERSION_1])
    hint = 1 << FREE_PAGE_HINT if kind == "virtio-balloon" else 0
    behaviour = Behaviour(
        supports=modern | RINGS[ring] | hint, sets_features_ok=not transport.legacy
    )
    driver = Driver(transport, GuestMemory(machine.qtest), behaviour)
    driver.negotiate()
    *_, queue = [driver.raw_queue(index, 8) for index in range(QUEUES[kind] + 1)]
    driver.start()
    return driver, queue


def offer_chain_without_end(queue: RawQueue) -> None:
    """It makes a device break: each descriptor has NEXT, and all are available."""
    for index in range(queue.size):
        queue.put(index, queue.memory.base, 16, DESC_F_WRITE | DESC_F_NEXT, next=index)
    queue.offer(*range(queue.size))


def await_interrupt(driver: Driver, wanted: int) -> None:
    """Wait until the device has set a bit of the ISR status, or of the indicators."""
    seen = 0

    def came() -> bool | None:
        nonlocal seen
        seen |= driver.transport.isr_status()
        return True if seen & wanted else None

    assert poll_until(came, TOLD_S, lambda: f"interrupt {wanted}, not {seen}")


def breaks_and_says_so(lab: Lab, name: str, kind: str, ring: str) -> None:
    """Break a device three times, and see that its driver is told."""
    machine = lab.start(TRANSPORTS[name].emulator, spec_of(TRANSPORTS[name], kind))
    for _ in range(3):
        driver, queue = driver_of(machine, name, kind, ring)
        offer_chain_without_end(queue)
        driver.transport.notify(queue.index)
        await_interrupt(driver, CONFIG)
        # CCW tells its status from revision 2 on (4.3.2.1).
        if name != "ccw 1":
            assert Status.DEVICE_NEEDS_RESET in driver.transport.status
    assert machine.alive


@pytest.mark.parametrize("ring", RINGS)
@pytest.mark.parametrize("kind", PROPERTIES)
@pytest.mark.parametrize("name", ["ccw 1", "ccw 2"])
def test_bad_ring_breaks_a_channel_device_and_not_qemu(
    lab: Lab, name: str, kind: str, ring: str
) -> None:
    breaks_and_says_so(lab, name, kind, ring)


@pytest.mark.parametrize("ring", RINGS)
@pytest.mark.parametrize("kind", PROPERTIES)
@pytest.mark.parametrize("name", ["pci modern", "mmio 2"])
def test_bad_ring_breaks_other_devices_too(lab: Lab, name: str, kind: str, ring: str) -> None:
    breaks_and_says_so(lab, name, kind, ring)


def hints(lab: Lab, name: str) -> None:
    """Hint at a free page. The balloon's iothread interrupts itself; others have an irqfd."""
    machine = lab.start(TRANSPORTS[name].emulator, spec_of(TRANSPORTS[name], "virtio-balloon"))
    driver, queue = driver_of(machine, name, "virtio-balloon", "split")
    queue.put(0, driver.memory.take(16), 16, DESC_F_WRITE)
    queue.offer(0)
    driver.transport.notify(queue.index)
    assert queue.wait_used(TOLD_S) == Used(0, 0)
    await_interrupt(driver, QUEUE)
    assert machine.alive


@pytest.mark.parametrize("name", ["ccw 0", "ccw 1", "ccw 2"])
def test_channel_driver_hints_at_a_free_page(lab: Lab, name: str) -> None:
    hints(lab, name)


@pytest.mark.parametrize("name", ["pci modern", "pci legacy", "mmio 1", "mmio 2"])
def test_other_driver_hints_at_a_free_page(lab: Lab, name: str) -> None:
    hints(lab, name)


def keep_busy(machine: Machine) -> None:
    """Keep the main loop, and with it the BQL, until the iothread has woken up."""
    for _ in range(10):
        machine.qtest.memset(SCRATCH, 8 * MIB, 0)


def open_lines(qtest: Qtest) -> None:
    """Let every line of the I/O APICs send a message to a local APIC."""
    for io_apic in IO_APICS:
        for pin in range(PINS):
            for half, value in enumerate((VECTOR, 0)):
                qtest.writel(io_apic, REDIRECTION + 2 * pin + half)
                qtest.writel(io_apic + IO_WINDOW, value)


@pytest.mark.parametrize("kind", ["virtio-blk", "virtio-scsi"])
@pytest.mark.parametrize("name", ["pci modern", "mmio 2"])
def test_line_is_raised_while_the_device_is_reset(lab: Lab, name: str, kind: str) -> None:
    """The main loop waits for the iothread then; the iothread must not wait for the main loop."""
    machine = lab.start(TRANSPORTS[name].emulator, spec_of(TRANSPORTS[name], kind))
    machine.qtest.timeout = TOLD_S
    open_lines(machine.qtest)
    for _ in range(TURNS):
        driver, queue = driver_of(machine, name, kind, "split")
        offer_chain_without_end(queue)
        with machine.qtest.at_once():
            driver.transport.notify(queue.index)
            keep_busy(machine)
            driver.transport.set_status(Status(0))
        assert not driver.transport.status


def test_private_buffer_breaks_the_disk_of_a_confidential_guest(lab: Lab) -> None:
    disk = {**DISK_DEVICE, "iothread": "io0"}
    simulation = ["-object", SIMULATION, *IOTHREAD, *kernel_option(lab.folder)]
    spec = Spec(
        IN_USE,
        cpu="max",
        memory=128,
        devices=[disk],
        blockdevs=[DISK],
        extra=simulation,
        qtest=True,
    )
    machine = lab.start("qemu-system-s390x", spec)
    cpu = Cpu(machine.qtest, machine.serial)
    guest = SeGuest(machine, cpu, Ultravisor(cpu), PageEach(machine.qtest))
    driver = guest.driver()
    queue, chain = guest.queue(driver), guest.chain()
    guest.ultravisor.unshare(chain[0].address)
    guest.offer(driver, queue, chain)
    assert guest.violation()["device"] == "disk"
    await_interrupt(driver, CONFIG)
    assert Status.DEVICE_NEEDS_RESET in driver.transport.status


@pytest.mark.parametrize("kind", PROPERTIES)
def test_device_is_unplugged_while_it_breaks(lab: Lab, kind: str) -> None:
    """A channel device goes at once, and what its iothread has left comes after that."""
    variant = TRANSPORTS["ccw 2"]
    spec = spec_of(variant, kind)
    machine = lab.start(variant.emulator, replace(spec, devices=[]))
    for _ in range(10):
        machine.plug(spec.devices[0])
        driver, queue = driver_of(machine, "ccw 2", kind, "split")
        offer_chain_without_end(queue)
        driver.transport.notify(queue.index)
        machine.unplug("dut")
    assert machine.alive
