"""A modern driver reads little-endian configuration from its first access on."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from qap.hw.s390x_cpu import Cpu
from qap.hw.subchannel import ChannelSubsystem, Subchannel
from qap.machine.catalog import device_types
from qap.machine.guest_memory import GuestMemory
from qap.machine.machine import Machine
from qap.matrix.config_reading import ConfigReader, ConfigReading, misread
from qap.oracle import config
from qap.oracle.features import FeatureBit, mask
from qap.verify.kit.checks import UP_TO_FEATURES_OK, reset_machine
from qap.verify.kit.lab import Lab
from qap.virtio.blk import Blk
from qap.virtio.ccw import VirtioCcw
from qap.virtio.driver import Behaviour, Driver
from qap.virtio.transports import TRANSPORTS, Beside

# Types in QEMU itself with fields of more than a byte, and those of them that are in the guest's
# order for a legacy driver.
KINDS = [
    kind
    for kind, row in device_types().items()
    if "ccw" in row.transports
    and row.served_by == "in-qemu"
    and row.config_layout not in ("", "8s")
]
BOTH = [
    kind
    for kind in KINDS
    if device_types()[kind].legacy and not device_types()[kind].config_layout.startswith("<")
]
REST = [kind for kind in KINDS if kind not in BOTH]
DISK = "virtio-blk"
SENSE_SIZE = 20
BLK_SIZE = 20
# 1 MiB, as configs/devices.toml has it.
CAPACITY = 2048
Plug = Callable[..., Machine]
LEGACY = Behaviour(0, sets_features_ok=False)


@pytest.fixture
def plug(lab: Lab) -> Plug:
    """Starts a machine with a device of a type."""

    def plugged(kind: str, machine_type: str = "", **properties: object) -> Machine:
        row = device_types()[kind]
        args = [arg.format(folder=lab.folder) for arg in row.args]
        variant = TRANSPORTS["ccw 2"]
        spec = variant.spec(kind, (), Beside(extra=args), **row.properties, **properties)
        if machine_type:
            spec = replace(spec, machine=machine_type)
        return lab.start(variant.emulator, spec)

    return plugged


def subchannel(machine: Machine) -> Subchannel:
    """That of its only virtio device, enabled."""
    (only,) = ChannelSubsystem(Cpu(machine.qtest, machine.serial)).scan()
    only.enable()
    return only


def capacity(transport: VirtioCcw) -> str:
    """The byte order of the capacity that a disk shows, as `struct` calls it."""
    data = transport.config_read(0, 8)
    return {CAPACITY.to_bytes(8, "little"): "<", CAPACITY.to_bytes(8, "big"): ">"}[data]


def accept_version_1(transport: VirtioCcw) -> None:
    transport.set_driver_features(mask([FeatureBit.VERSION_1]))
    for status in UP_TO_FEATURES_OK:
        transport.set_status(status)


def read(machine: Machine, kind: str, *revisions: int) -> list[ConfigReading]:
    """What drivers of these revisions read, one after the other."""
    row = device_types()[kind]
    size = config.size(row.config_layout)
    readings: list[ConfigReading] = []
    at = subchannel(machine)
    for turn, revision in enumerate(revisions):
        transport = VirtioCcw(at, revision)
        readings += ConfigReader(transport, turn, size, mask(row.accepts)).run()
    return readings


@pytest.mark.parametrize("revision", [1, 2])
@pytest.mark.parametrize("kind", BOTH)
def test_modern_driver_reads_the_same_at_every_step(plug: Plug, kind: str, revision: int) -> None:
    """2.5.3 makes no exception for a driver that has not accepted VERSION_1 yet."""
    readings = read(plug(kind), kind, revision)
    assert misread(readings, device_types()[kind].config_layout, "big") == []


@pytest.mark.parametrize("kind", BOTH)
def test_drivers_of_both_kinds_take_turns(plug: Plug, kind: str) -> None:
    """2.5.4: a legacy driver after a reset has the guest's order, and the next one has not."""
    readings = read(plug(kind), kind, 2, 0, 1)
    assert misread(readings, device_types()[kind].config_layout, "big") == []


@pytest.mark.parametrize("kind", REST)
def test_other_configuration_is_always_little_endian(plug: Plug, kind: str) -> None:
    """A device without a legacy interface, and a balloon, 5.5.4."""
    revisions = (2, 0, 1) if device_types()[kind].legacy else (1, 2)
    readings = read(plug(kind), kind, *revisions)
    assert misread(readings, device_types()[kind].config_layout, "big") == []


@pytest.mark.parametrize("revision", [1, 2])
def test_disk_with_large_blocks_shows_their_size_early(plug: Plug, revision: int) -> None:
    """A driver that checks blk_size, 5.2.4, before it writes features would take 4096 for 1 MiB."""
    blocks = {"physical_block_size": 4096, "logical_block_size": 4096}
    transport = VirtioCcw(subchannel(plug(DISK, **blocks)), revision)
    for status in UP_TO_FEATURES_OK[:2]:
        transport.set_status(status)
    assert int.from_bytes(transport.config_read(BLK_SIZE, 4), "little") == 4096


def test_firmware_does_not_decide_for_the_operating_system(plug: Plug) -> None:
    """A machine reset forgets what the driver before used."""
    machine = plug(DISK)
    assert capacity(VirtioCcw(subchannel(machine), 2)) == "<"
    reset_machine(machine)
    assert capacity(VirtioCcw(subchannel(machine), 0)) == ">"


def test_revision_is_asked_anew_when_a_subchannel_is_enabled(plug: Plug) -> None:
    """4.3.2.1, without a reset: the driver that asks last has the order of its revision."""
    at = subchannel(plug(DISK))
    assert [capacity(VirtioCcw(at, revision)) for revision in (2, 0, 1, 0)] == [*"<><>"]


def test_running_legacy_driver_keeps_its_order(plug: Plug) -> None:
    """Whoever speaks the modern interface to a device that runs does not change its rings."""
    at = subchannel(plug(DISK))
    driver = Driver(VirtioCcw(at, 0), GuestMemory(at.cpu.qtest), LEGACY)
    driver.negotiate()
    disk = Blk(driver)
    assert disk.read(3) == bytes(512)
    assert capacity(VirtioCcw(at, 2)) == ">"
    assert disk.read(3) == bytes(512)


def test_written_configuration_is_little_endian_too(plug: Plug) -> None:
    """A driver writes sense_size, 5.6.4, before it has accepted VERSION_1, and reads it back."""
    transport = VirtioCcw(subchannel(plug("virtio-scsi")), 2)
    transport.config_write(SENSE_SIZE, (64).to_bytes(4, "little"))
    accept_version_1(transport)
    assert transport.config_read(SENSE_SIZE, 4) == (64).to_bytes(4, "little")


@pytest.mark.parametrize(
    ("machine_type", "properties"),
    [("s390-ccw-virtio-9.2", {}), ("", {"x-detect-modern-driver": False})],
)
def test_older_machine_types_keep_what_they_had(
    plug: Plug, machine_type: str, properties: dict[str, object]
) -> None:
    transport = VirtioCcw(subchannel(plug(DISK, machine_type, **properties)), 2)
    assert capacity(transport) == ">"
    accept_version_1(transport)
    assert capacity(transport) == "<"
