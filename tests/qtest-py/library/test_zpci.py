"""PCI functions of an s390x machine, driven by its PCI instructions."""

import struct
from collections.abc import Callable

import pytest

from qap.host.wait import poll_until
from qap.hw.pci import (
    COMMAND,
    COMMAND_BUS_MASTER,
    COMMAND_MEMORY_SPACE,
)
from qap.hw.s390x_cpu import Cpu, ProgramCheck
from qap.hw.zpci import CONFIGURATION, ZpciAccess, ZpciError, ZpciFunction, zpci_functions
from qap.machine.device import Device
from qap.machine.guest_memory import MIB, GuestMemory
from qap.oracle.features import FeatureBit, mask
from qap.oracle.status import Status
from qap.verify.kit.lab import Lab
from qap.virtio import pci_modern as virtio
from qap.virtio.queue import Buffer
from qap.virtio.split import SplitQueue
from qap.virtio.zpci import ZpciRegions

RNG: Device = {
    "driver": "virtio-rng-pci",
    "id": "dut",
    "disable-legacy": "on",
    "iommu_platform": True,
}
RNG_ID = virtio.MODERN_DEVICE_ID + 4
QUEUE_SIZE = 8
FEATURES = mask([FeatureBit.VERSION_1, FeatureBit.ACCESS_PLATFORM])


@pytest.fixture
def start(lab: Lab) -> Callable[..., Cpu]:
    """The CPU of an s390-ccw-virtio with these devices."""

    def started(*devices: Device) -> Cpu:
        machine = lab.s390x(*devices)
        return Cpu(machine.qtest, machine.serial)

    return started


@pytest.fixture
def function(start: Callable[..., Cpu]) -> ZpciFunction:
    """The enabled function of a modern virtio-rng-pci."""
    (function,) = zpci_functions(start(RNG))
    function.enable()
    return function


def started_queue(registers: ZpciRegions, memory: GuestMemory) -> SplitQueue:
    """Queue 0 of a device that is at DRIVER_OK."""
    both = COMMAND_MEMORY_SPACE | COMMAND_BUS_MASTER
    registers.function.config_write(COMMAND, 2, both)
    status = Status(0)
    for bit in (Status(0), Status.ACKNOWLEDGE, Status.DRIVER):
        status |= bit
        registers.common(virtio.DEVICE_STATUS, 1, status)
    for half in (0, 1):
        registers.common(virtio.DRIVER_FEATURE_SELECT, 4, half)
        registers.common(virtio.DRIVER_FEATURE, 4, FEATURES >> 32 * half & 0xFFFF_FFFF)
    status |= Status.FEATURES_OK
    registers.common(virtio.DEVICE_STATUS, 1, status)
    assert registers.read(virtio.COMMON_CFG, virtio.DEVICE_STATUS, 1) == status
    queue = SplitQueue(memory, 0, QUEUE_SIZE)
    registers.common(virtio.QUEUE_SELECT, 2, 0)
    registers.common(virtio.QUEUE_SIZE, 2, QUEUE_SIZE)
    for register, address in (
        (virtio.QUEUE_DESC, queue.addresses.desc),
        (virtio.QUEUE_DRIVER, queue.addresses.driver),
        (virtio.QUEUE_DEVICE, queue.addresses.device),
    ):
        registers.common(register, 4, address & 0xFFFF_FFFF)
        registers.common(register + 4, 4, address >> 32)
    registers.common(virtio.QUEUE_ENABLE, 2, 1)
    registers.common(virtio.DEVICE_STATUS, 1, status | Status.DRIVER_OK)
    return queue


def test_functions_are_listed(start: Callable[..., Cpu]) -> None:
    named: Device = {"driver": "zpci", "target": "dut", "fid": 7, "uid": 9}
    functions = zpci_functions(start(named, RNG, {**RNG, "id": "other"}))
    assert [function.id for function in functions] == [7, 0]
    assert zpci_functions(start()) == []


def test_function_is_reached_once_enabled(start: Callable[..., Cpu]) -> None:
    (function,) = zpci_functions(start(RNG))
    with pytest.raises(ZpciError, match="with an invalid handle"):
        _ = function.vendor_id
    function.enable()
    assert (function.vendor_id, function.device_id) == (virtio.VENDOR_ID, RNG_ID)
    with pytest.raises(ZpciError, match="answers 0x0005 with 0x0102"):
        function.enable()
    function.disable()
    with pytest.raises(ZpciError, match="with an invalid handle"):
        _ = function.device_id


def test_configuration_space_is_little_endian(function: ZpciFunction) -> None:
    raw = function.config_bytes(0, 8)
    assert struct.unpack_from("<HH", raw) == (virtio.VENDOR_ID, RNG_ID)
    function.config_write(COMMAND, 2, COMMAND_BUS_MASTER)
    assert function.config_read(COMMAND, 2) == COMMAND_BUS_MASTER
    assert function.config_read(COMMAND, 1) == COMMAND_BUS_MASTER


def test_registers_are_read_and_written_in_order(function: ZpciFunction) -> None:
    """More accesses than fit in a batch."""
    bar, offset = ZpciRegions(function).places[virtio.COMMON_CFG]
    accesses = []
    for half in (0, 1) * 12:
        accesses.append(ZpciAccess(bar, offset + virtio.DEVICE_FEATURE_SELECT, 4, half))
        accesses.append(ZpciAccess(bar, offset + virtio.DEVICE_FEATURE, 4))
    values = function.run_all(accesses)
    assert values[::2] == [0] * 24
    assert values[3::4] == [FEATURES >> 32 | 1 << FeatureBit.RING_RESET - 32] * 12
    assert len(set(values[1::4])) == 1


@pytest.mark.parametrize(
    "access",
    [ZpciAccess(CONFIGURATION, 2, 4), ZpciAccess(CONFIGURATION, 0, 3), ZpciAccess(4, 1 << 24, 4)],
)
def test_impossible_access_is_a_program_check(function: ZpciFunction, access: ZpciAccess) -> None:
    with pytest.raises(ProgramCheck, match="operand exception"):
        function.run_all([access])


def test_unknown_space_is_an_error(function: ZpciFunction) -> None:
    with pytest.raises(ZpciError, match="with an error"):
        function.run_all([ZpciAccess(6, 0, 4)])


def test_device_reaches_memory_where_it_is_mapped(function: ZpciFunction) -> None:
    """At I/O virtual addresses only."""
    iova = function.dma_range()[0] + 3 * MIB
    qtest = function.cpu.qtest
    function.translate(GuestMemory(qtest, base=16 * MIB, size=MIB), iova, 32 * MIB, 2 * MIB)
    memory = GuestMemory(qtest, base=32 * MIB, size=2 * MIB, iova=iova)
    registers = ZpciRegions(function)
    queue = started_queue(registers, memory)
    room = memory.take(64)
    assert room >= iova
    queue.add([Buffer(room, 64, writable=True)])
    registers.write(virtio.NOTIFY_CFG, 0, 2, 0)
    assert queue.wait_used(10).length == 64
    assert any(memory.read(room, 64))


def test_device_that_leaves_its_mapping_is_stopped(function: ZpciFunction) -> None:
    qtest = function.cpu.qtest
    iova = function.dma_range()[0] + MIB
    function.translate(GuestMemory(qtest, base=16 * MIB, size=MIB), iova, 32 * MIB, MIB)
    registers = ZpciRegions(function)
    queue = started_queue(registers, GuestMemory(qtest, base=32 * MIB, size=MIB, iova=iova))
    queue.add([Buffer(iova - MIB, 64, writable=True)])
    registers.write(virtio.NOTIFY_CFG, 0, 2, 0)
    with pytest.raises(ZpciError, match="with an error"):
        poll_until(lambda: None if function.vendor_id else True, 10, lambda: "an error")


def test_translation_is_registered_once(function: ZpciFunction) -> None:
    tables = GuestMemory(function.cpu.qtest, size=MIB)
    iova = function.dma_range()[0]
    function.translate(tables, iova, 32 * MIB, MIB)
    with pytest.raises(ZpciError, match="with an error"):
        function.translate(tables, iova, 32 * MIB, MIB)
    function.untranslate()
    function.translate(tables, iova, 32 * MIB, MIB)
    function.untranslate()
    with pytest.raises(ProgramCheck, match="operand exception"):
        function.translate(tables, iova - MIB, 32 * MIB, MIB)
