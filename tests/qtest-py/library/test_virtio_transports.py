"""Tests for each transport: configuration, interrupts, reset of a device and of a queue."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from qap.fork.build import Build
from qap.machine.guest_memory import GuestMemory
from qap.machine.machine import Machine
from qap.oracle.features import FeatureBit, mask
from qap.oracle.status import Status
from qap.virtio import blk, rng
from qap.virtio.blk import Blk
from qap.virtio.driver import Behaviour, Driver
from qap.virtio.rng import Rng
from qap.virtio.transport import Transport, VirtioError
from qap.virtio.transports import TRANSPORTS, Beside

SECTORS = 2048
# 5.2.3, and 5.2.4: the byte of configuration that the driver may write with it.
FEATURE_CONFIG_WCE = 11
WRITEBACK = 0x20


LEGACY_VARIANTS = ("pci legacy", "mmio 1")
# Configuration is in registers on these transports; CCW has channel programs for it.
REGISTERS = [name for name in TRANSPORTS if not name.startswith("ccw")]


@dataclass
class Started:
    """A machine and the transport to its only virtio device."""

    machine: Machine
    transport: Transport

    def negotiated(self, *features: int) -> Driver:
        """A driver that accepts these features, and VERSION_1 from a modern device."""
        legacy = self.transport.legacy
        wanted = mask(features) | (0 if legacy else mask([FeatureBit.VERSION_1]))
        behaviour = Behaviour(supports=wanted, sets_features_ok=not legacy)
        driver = Driver(self.transport, GuestMemory(self.machine.qtest), behaviour)
        driver.negotiate()
        assert driver.accepted == wanted
        return driver

    def resize(self, sectors: int) -> None:
        """Make the disk larger; a running device notifies its driver."""
        self.machine.qmp.execute("block_resize", **{"node-name": "disk0", "size": 512 * sectors})


@pytest.fixture
def testbed(tmp_path: Path) -> Iterator[Callable[..., Started]]:
    """Starts a machine with one virtio device, an entropy device or a disk."""
    with ExitStack() as owned:

        def started(name: str, kind: str = "rng") -> Started:
            variant = TRANSPORTS[name]
            path = tmp_path / "disk.raw"
            path.write_bytes(bytes(512 * SECTORS))
            if kind == "blk":
                blockdev = f"driver=file,node-name=disk0,filename={path}"
                spec = variant.spec("virtio-blk", [blockdev], drive="disk0")
            else:
                spec = variant.spec("virtio-rng")
            binary = Build.under_test().path(variant.emulator)
            machine = owned.enter_context(Machine(binary, spec, log=tmp_path / "qemu.log"))
            return Started(machine, variant.connect(machine))

        yield started


@pytest.mark.parametrize("variant", TRANSPORTS)
def test_device_is_of_its_type(testbed: Callable[..., Started], variant: str) -> None:
    assert testbed(variant).transport.device_type == rng.DEVICE_TYPE
    assert testbed(variant, "blk").transport.device_type == blk.DEVICE_TYPE


@pytest.mark.parametrize("variant", TRANSPORTS)
def test_reset_takes_everything_back(testbed: Callable[..., Started], variant: str) -> None:
    device = Rng(testbed(variant).negotiated(FeatureBit.EVENT_IDX))
    transport = device.driver.transport
    assert Status.DRIVER_OK in transport.status
    assert transport.queue_enabled(0)
    device.read(8)
    transport.reset()
    assert transport.status == Status(0)
    assert not transport.queue_enabled(0)
    assert transport.isr_status() == 0


@pytest.mark.parametrize("variant", TRANSPORTS)
def test_device_that_was_reset_is_driven_again(
    testbed: Callable[..., Started], variant: str
) -> None:
    place = testbed(variant)
    for features in ((), (FeatureBit.EVENT_IDX,), (FeatureBit.INDIRECT_DESC,)):
        assert len(Rng(place.negotiated(*features)).read(16)) == 16


@pytest.mark.parametrize("variant", TRANSPORTS)
def test_interrupt_is_pending_until_read(testbed: Callable[..., Started], variant: str) -> None:
    device = Rng(testbed(variant).negotiated())
    assert device.driver.transport.isr_status() == 0
    device.read(8)
    assert [device.driver.transport.isr_status() for _ in range(2)] == [1, 0]


@pytest.mark.parametrize("variant", TRANSPORTS)
def test_queue_that_is_not_there_is_named(testbed: Callable[..., Started], variant: str) -> None:
    with pytest.raises(VirtioError, match="no queue 1"):
        testbed(variant).negotiated().queue(1)


@pytest.mark.parametrize("variant", TRANSPORTS)
def test_config_is_read_and_written(testbed: Callable[..., Started], variant: str) -> None:
    driver = testbed(variant, "blk").negotiated(FEATURE_CONFIG_WCE)
    assert Blk(driver).capacity == SECTORS
    assert driver.transport.config_read(WRITEBACK, 1) == b"\x01"
    driver.transport.config_write(WRITEBACK, b"\x00")
    assert driver.transport.config_read(WRITEBACK, 1) == b"\x00"


@pytest.mark.parametrize("variant", REGISTERS)
def test_config_has_an_end(testbed: Callable[..., Started], variant: str) -> None:
    with pytest.raises(VirtioError, match="no 4 bytes of configuration at 0x2000"):
        testbed(variant, "blk").transport.config_read(0x2000, 4)


@pytest.mark.parametrize("variant", REGISTERS)
def test_resize_changes_the_config_and_interrupts(
    testbed: Callable[..., Started], variant: str
) -> None:
    """Bit 1 of the ISR (4.1.4.5) or of InterruptStatus (4.2.2)."""
    place = testbed(variant, "blk")
    device = Blk(place.negotiated())
    before = place.transport.config_generation
    place.resize(2 * SECTORS)
    assert place.transport.isr_status() & 2
    assert device.capacity == 2 * SECTORS
    if variant in LEGACY_VARIANTS:
        assert before is None
    else:
        assert place.transport.config_generation != before


@pytest.mark.parametrize("variant", REGISTERS)
def test_config_that_changes_in_between_is_read_again(
    testbed: Callable[..., Started], variant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk is resized after the two words of its capacity were read."""
    place = testbed(variant, "blk")
    device = Blk(place.negotiated())
    ask = place.machine.qtest.run_all
    sizes = [3 * SECTORS, 5 * SECTORS]

    def run_all(commands: Sequence[Any]) -> list[Any]:
        answers = ask(commands)
        reads = [command.line for command in commands if command.line.startswith(("readl", "inl"))]
        if len(reads) == len(commands) == 2 and sizes:
            place.resize(sizes.pop(0))
        return answers

    monkeypatch.setattr(place.machine.qtest, "run_all", run_all)
    assert device.capacity == 5 * SECTORS
    assert not sizes


def test_config_that_never_settles_is_an_error(
    testbed: Callable[..., Started], monkeypatch: pytest.MonkeyPatch
) -> None:
    transport = testbed("mmio 2", "blk").transport
    changing = iter(range(1 << 30))
    monkeypatch.setattr("qap.virtio.transport.SETTLED_S", 0.05)
    monkeypatch.setattr(type(transport), "config_generation", property(lambda _: next(changing)))
    with pytest.raises(TimeoutError, match="configuration of the MMIO device"):
        transport.config_read(0, 8)


def test_queue_is_reset_by_itself_over_pci(testbed: Callable[..., Started]) -> None:
    """Then it is enabled again, with another ring of another size (2.6.1.2)."""
    device = Rng(testbed("pci modern").negotiated(FeatureBit.RING_RESET))
    driver = device.driver
    device.read(8)
    driver.transport.queue_reset(0)
    assert not driver.transport.queue_enabled(0)
    assert Status.DRIVER_OK in driver.transport.status
    with pytest.raises(TimeoutError, match="queue 0 to be served"):
        device.read(8, timeout=0.1)
    device.requestq = driver.queue(0, size=8)
    for _ in range(20):
        assert len(device.read(8)) == 8


def test_queue_that_stays_enabled_was_not_reset(testbed: Callable[..., Started]) -> None:
    """A device ignores QueueReset from a driver that did not accept RING_RESET (4.2.2)."""
    device = Rng(testbed("mmio 2").negotiated())
    with pytest.raises(VirtioError, match="has reset queue 0 and left it enabled"):
        device.driver.transport.queue_reset(0)


@pytest.mark.parametrize("variant", LEGACY_VARIANTS)
def test_legacy_queue_has_no_reset(testbed: Callable[..., Started], variant: str) -> None:
    with pytest.raises(VirtioError, match="can't reset a queue by itself"):
        testbed(variant).negotiated().transport.queue_reset(0)


@pytest.mark.parametrize("variant", TRANSPORTS)
def test_machine_has_several_devices(tmp_path: Path, variant: str) -> None:
    chosen = TRANSPORTS[variant]
    other = {"driver": f"virtio-rng-{chosen.suffix}", **chosen.properties}
    spec = chosen.spec("virtio-rng", (), Beside(devices=[other]))
    with Machine(Build.under_test().path(chosen.emulator), spec, log=tmp_path / "log") as machine:
        transports = chosen.connect_all(machine)
        assert [transport.device_type for transport in transports] == [rng.DEVICE_TYPE] * 2
        with pytest.raises(VirtioError, match="the machine has 2 virtio devices, not one"):
            chosen.connect(machine)


@pytest.mark.parametrize("variant", ["pci modern", "pci legacy"])
def test_device_is_behind_a_bus_of_its_own(tmp_path: Path, variant: str) -> None:
    chosen = TRANSPORTS[variant]
    bridge = {"driver": "pci-bridge", "id": "bridge0", "chassis_nr": 1}
    spec = chosen.spec("virtio-rng", (), Beside(bus=bridge))
    with Machine(Build.under_test().path(chosen.emulator), spec, log=tmp_path / "log") as machine:
        assert chosen.connect(machine).device_type == rng.DEVICE_TYPE


@pytest.mark.parametrize("variant", TRANSPORTS)
def test_machine_has_what_its_device_needs(tmp_path: Path, variant: str) -> None:
    """A chardev for a device beside it, and an object of the command line."""
    chosen = TRANSPORTS[variant]
    console = {"driver": "virtconsole", "chardev": "console0"}
    iothread = ["-object", "iothread,id=io0"]
    beside = Beside(devices=[console], chardevs=["null,id=console0"], extra=iothread)
    spec = chosen.spec("virtio-serial", (), beside)
    with Machine(Build.under_test().path(chosen.emulator), spec, log=tmp_path / "log") as machine:
        assert [found["id"] for found in machine.qmp.execute("query-iothreads")] == ["io0"]
        assert "console0" in [found["label"] for found in machine.qmp.execute("query-chardev")]
