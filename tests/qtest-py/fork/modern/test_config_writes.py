"""What a driver writes into configuration before it has accepted VERSION_1 is in its own order."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Protocol

import pytest

from qap.hw.s390x_cpu import Cpu
from qap.hw.subchannel import ChannelSubsystem
from qap.hw.zpci import zpci_functions
from qap.machine.machine import Machine
from qap.oracle.config import Interface, order
from qap.oracle.features import FeatureBit, mask
from qap.oracle.status import Status
from qap.verify.kit.big_endian import BigEndian, Bus, reached
from qap.verify.kit.checks import UP_TO_FEATURES_OK
from qap.verify.kit.lab import Lab
from qap.virtio.ccw import VirtioCcw
from qap.virtio.transports import TRANSPORTS, Beside
from qap.virtio.zpci import VirtioZpci

# 5.3.4: emerg_wr of a console; 5.6.4: sense_size of a SCSI host.
EMERG_WR, SENSE_SIZE = 8, 20
SIZE = 64
Console = Callable[..., VirtioCcw]


class Writable(Protocol):
    """What a test needs of a transport, and of what has no queues."""

    @property
    def legacy(self) -> bool: ...
    def reset(self) -> None: ...
    def set_status(self, status: Status) -> None: ...
    def set_driver_feature_word(self, index: int, word: int) -> None: ...
    def config_read(self, offset: int, size: int) -> bytes: ...
    def config_write(self, offset: int, data: bytes) -> None: ...


@pytest.fixture
def console(lab: Lab) -> Console:
    """Starts a machine with a console that writes to a file; returns its device, reset."""

    def started(revision: int, machine_type: str = "") -> VirtioCcw:
        port = {"driver": "virtconsole", "chardev": "out"}
        beside = Beside(devices=[port], chardevs=[f"file,id=out,path={written(lab)}"])
        variant = TRANSPORTS["ccw 2"]
        spec = variant.spec("virtio-serial", (), beside)
        spec = replace(spec, machine=machine_type or spec.machine)
        return device(lab.start(variant.emulator, spec), revision)

    return started


def written(lab: Lab) -> Path:
    """Where a console's output goes."""
    return lab.folder / "out"


def device(machine: Machine, revision: int) -> VirtioCcw:
    """The machine's only virtio device, reset."""
    (subchannel,) = ChannelSubsystem(Cpu(machine.qtest, machine.serial)).scan()
    found = VirtioCcw(subchannel, revision)
    found.reset()
    return found


def test_legacy_drivers_emergency_write_is_in_its_own_order(lab: Lab, console: Console) -> None:
    """5.3.4.1: fields are in the guest's order."""
    console(0).config_write(EMERG_WR, ord("!").to_bytes(4, "big"))
    assert written(lab).read_bytes() == b"!"


@pytest.mark.parametrize("machine_type", ["", "s390-ccw-virtio-9.2"])
@pytest.mark.parametrize("revision", [1, 2])
def test_modern_drivers_emergency_write_is_little_endian(
    lab: Lab, console: Console, revision: int, machine_type: str
) -> None:
    """Also where a modern driver is not known before it has accepted VERSION_1."""
    console(revision, machine_type).config_write(EMERG_WR, ord("!").to_bytes(4, "little"))
    assert written(lab).read_bytes() == b"!"


def keeps_what_is_written(host: Writable) -> None:
    """Check that a SCSI host takes a size from a driver that has accepted nothing yet.

    In the other order it would be too large, and the device would break.
    """
    host.reset()
    interface: Interface = "legacy" if host.legacy else "modern"
    data = SIZE.to_bytes(4, order(interface, "big"))
    host.config_write(SENSE_SIZE, data)
    assert host.config_read(SENSE_SIZE, 4) == data
    if not host.legacy:
        host.set_driver_feature_word(1, mask([FeatureBit.VERSION_1]) >> 32)
        for status in UP_TO_FEATURES_OK:
            host.set_status(status)
        assert host.config_read(SENSE_SIZE, 4) == data


def test_modern_driver_writes_little_endian_on_zpci(lab: Lab) -> None:
    keeps_what_is_written(zpci_host(lab, "modern"))


def test_legacy_driver_writes_in_the_guests_order_on_zpci(lab: Lab) -> None:
    keeps_what_is_written(zpci_host(lab, "legacy"))


def zpci_host(lab: Lab, interface: Interface) -> VirtioZpci:
    machine = lab.s390x({"driver": "virtio-scsi-pci", "disable-legacy": "off"})
    (function,) = zpci_functions(Cpu(machine.qtest, machine.serial))
    function.enable()
    return VirtioZpci(function, legacy=interface == "legacy")


@pytest.mark.parametrize("bus", ["pci", "mmio"])
def test_modern_driver_writes_little_endian(big_endian: BigEndian, bus: Bus) -> None:
    keeps_what_is_written(reached(big_endian.start("virtio-scsi", bus).qtest, bus))


def test_legacy_driver_writes_in_the_guests_order(big_endian: BigEndian) -> None:
    machine = big_endian.start("virtio-scsi", "pci")
    keeps_what_is_written(reached(machine.qtest, "pci", "legacy"))
