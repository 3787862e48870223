"""Each request that a PVSCSI adapter takes ends, and releases what it holds.

A request that stays asserts at the next reset. One that keeps its list of addresses keeps the
adapter from being freed.
"""

from collections.abc import Callable
from pathlib import Path

import pytest

from qap.hw.pci_bus import PciBus, Slot
from qap.hw.pvscsi import (
    DEVICE_ID,
    VENDOR_ID,
    Completion,
    HostStatus,
    Pvscsi,
    PvscsiCommand,
    RequestFlag,
)
from qap.machine.device import Device
from qap.machine.guest_memory import MIB, GuestMemory
from qap.machine.machine import Machine
from qap.machine.qtest_follow import MovingQtest
from qap.verify.kit.checks import reset_machine
from qap.verify.kit.lab import Lab
from qap.verify.kit.migrate import ARRIVED, migrate
from qap.verify.kit.slot import DUT, NATIVE, PORT, powered_slot, wait_gone
from qap.verify.kit.slow_disk import null_disk, operations, throttle_group, throttled

SECTOR = 512
READ_10, WRITE_10 = (bytes([code, 0, 0, 0, 0, 0, 0, 0, 1, 0]) for code in (0x28, 0x2A))
TEST_UNIT_READY = bytes(6)
LIST, TO_HOST = RequestFlag.WITH_SG_LIST, RequestFlag.DIR_TOHOST
TO_DEVICE = RequestFlag.DIR_TODEVICE
WRONG = {"read": (READ_10, TO_DEVICE), "write": (WRITE_10, TO_HOST)}
RIGHT = {"read": (READ_10, TO_HOST), "write": (WRITE_10, TO_DEVICE)}
# Long enough for what comes next on a busy host, with the slot found before.
LATENCY_S = 1.0
# Serves nothing before QEMU waits for it.
SLOW = throttle_group()
SLOW_DISK = null_disk("null0"), throttled("null0")
READABLE = "driver=null-co,node-name=disk0,size=1048576,read-zeroes=on"
BAD_DISK = (
    "driver=null-co,node-name=null0,size=1048576",
    "driver=blkdebug,node-name=disk0,image=null0,inject-error.0.event=none",
)

# With the slot of its adapter, whose power is on.
Guest = tuple[Machine, Pvscsi, Slot]
Request = tuple[bytes, RequestFlag]
End = Callable[[Guest, int], object]

# With the status of a request that they end, where its ring stays.
TOLD: dict[str, tuple[End, HostStatus]] = {
    "bus-reset": (
        lambda guest, context: guest[1].command(PvscsiCommand.RESET_BUS),
        HostStatus.BUSRESET,
    ),
    "device-reset": (
        lambda guest, context: guest[1].command(PvscsiCommand.RESET_DEVICE, bytes(12)),
        HostStatus.BUSRESET,
    ),
    "abort": (lambda guest, context: guest[1].abort(context), HostStatus.ABORTQUEUE),
}
UNTOLD: dict[str, End] = {
    "adapter-reset": lambda guest, context: guest[1].command(PvscsiCommand.ADAPTER_RESET),
    "system-reset": lambda guest, context: reset_machine(guest[0]),
    "unplug": lambda guest, context: guest[2].power(False),
}
ENDS = {**{name: end for name, (end, _) in TOLD.items()}, **UNTOLD}


def machine(lab: Lab, *disks: str, error: str = "report", incoming: bool = False) -> Machine:
    devices: list[Device] = [
        {"driver": "pvscsi", "id": DUT, "bus": PORT},
        {"driver": "scsi-hd", "drive": "disk0", "scsi-id": 0, "rerror": error, "werror": error},
    ]
    extra = (*NATIVE, *SLOW, *(("-incoming", "defer") if incoming else ()))
    return lab.machine(*devices, blockdevs=disks, extra=extra, qtest=True)


def started(machine: Machine) -> Guest:
    """The adapter serves a request that needs no disk, and its slot is found."""
    slot = powered_slot(machine)
    session = MovingQtest(machine.qtest)
    memory = GuestMemory(session, 16 * MIB, 4 * MIB)
    adapter = Pvscsi(PciBus(session).find(VENDOR_ID, DEVICE_ID), memory)
    adapter.start()
    adapter.begin(TEST_UNIT_READY, RequestFlag.DIR_NONE, 0, 0)
    adapter.finish()
    return machine, adapter, slot


def begin(guest: Guest, request: Request) -> int:
    _, adapter, _ = guest
    return adapter.begin(*request, adapter.memory.take(SECTOR), SECTOR)


def assert_ends_well(guest: Guest, end: End, context: int) -> None:
    """What ends a request leaves an adapter that serves, and that can be unplugged."""
    end(guest, context)
    unplug = ENDS["unplug"]
    if end is not unplug:
        unplug(started(guest[0]), context)
    wait_gone(guest[0])


@pytest.mark.parametrize("wrong", WRONG.values(), ids=WRONG)
def test_wrong_direction_is_told(lab: Lab, wrong: Request) -> None:
    """It ends as Linux knows it, and the next one is served."""
    guest = started(machine(lab, null_disk()))
    _, adapter, _ = guest
    context = begin(guest, wrong)
    assert adapter.finish() == Completion(context, HostStatus.BADMSG, 0)
    context = begin(guest, RIGHT["read"])
    assert adapter.finish() == Completion(context, HostStatus.SUCCESS, 0)


@pytest.mark.parametrize("end", ENDS.values(), ids=ENDS)
@pytest.mark.parametrize("wrong", WRONG.values(), ids=WRONG)
def test_wrong_direction_and_its_end(lab: Lab, wrong: Request, end: End) -> None:
    guest = started(machine(lab, null_disk()))
    assert_ends_well(guest, end, begin(guest, wrong))


def test_wrong_direction_and_migration(lab: Lab, tmp_path: Path) -> None:
    guest = source, _, _ = started(machine(lab, null_disk()))
    begin(guest, WRONG["read"])
    assert migrate(source, machine(lab, null_disk(), incoming=True), tmp_path) == ARRIVED


@pytest.mark.parametrize("end", ENDS.values(), ids=ENDS)
@pytest.mark.parametrize("right", RIGHT.values(), ids=RIGHT)
def test_request_in_the_disk(lab: Lab, right: Request, end: End) -> None:
    """The request that is cancelled releases its list."""
    guest = started(machine(lab, null_disk(latency_s=LATENCY_S)))
    context = begin(guest, right)
    assert operations(guest[0], "rd") + operations(guest[0], "wr") == 0
    assert_ends_well(guest, end, context)


@pytest.mark.parametrize(("end", "status"), TOLD.values(), ids=TOLD)
def test_request_in_the_disk_is_told_of(lab: Lab, end: End, status: HostStatus) -> None:
    guest = started(machine(lab, null_disk(latency_s=LATENCY_S)))
    context = begin(guest, RIGHT["read"])
    end(guest, context)
    assert guest[1].finish() == Completion(context, status, 0)


@pytest.mark.parametrize("right", RIGHT.values(), ids=RIGHT)
@pytest.mark.parametrize("flag", [LIST, RequestFlag(0)], ids=["list", "no-list"])
def test_request_without_room(lab: Lab, right: Request, flag: RequestFlag) -> None:
    """Its command moves a sector, and it has room for no byte."""
    _, adapter, _ = started(machine(lab, null_disk()))
    command, direction = right
    context = adapter.begin(command, direction | flag, adapter.put_list((0, 0)), 0)
    assert adapter.finish() == Completion(context, HostStatus.DATARUN, 0)


def with_elements(adapter: Pvscsi, right: Request, rooms: int) -> Completion:
    """A request whose list has elements without room before and after those with room."""
    command, direction = right
    room = [(adapter.memory.take(SECTOR), SECTOR)] * rooms
    place = adapter.put_list((0, 0), *room, *[(0, 0)] * 4)
    adapter.begin(command, direction | LIST, place, SECTOR)
    return adapter.finish()


@pytest.mark.parametrize("right", RIGHT.values(), ids=RIGHT)
def test_elements_without_room(lab: Lab, right: Request) -> None:
    _, adapter, _ = started(machine(lab, null_disk()))
    assert with_elements(adapter, right, rooms=0).host_status == HostStatus.DATARUN


@pytest.mark.parametrize("right", RIGHT.values(), ids=RIGHT)
def test_elements_without_room_beside_one(lab: Lab, right: Request) -> None:
    """The adapter itself leaves them out."""
    _, adapter, _ = started(machine(lab, null_disk()))
    assert with_elements(adapter, right, rooms=1).host_status == HostStatus.SUCCESS


def moved(source: Machine, adapter: Pvscsi, destination: Machine, folder: Path) -> None:
    """The VM migrates, and its driver with it."""
    assert migrate(source, destination, folder) == ARRIVED
    session = adapter.function.qtest
    assert isinstance(session, MovingQtest)
    session.now = destination.qtest


def arrives_while_it_waits(lab: Lab, folder: Path, right: Request) -> None:
    """QEMU waits for the disk, and the driver finds the completion where its VM arrives."""
    guest = source, adapter, _ = started(machine(lab, *SLOW_DISK))
    context = begin(guest, right)
    assert operations(source, "rd") + operations(source, "wr") == 0
    moved(source, adapter, machine(lab, null_disk(), incoming=True), folder)
    assert adapter.finish() == Completion(context, HostStatus.SUCCESS, 0)


def test_request_completes_as_the_vm_stops(lab: Lab, tmp_path: Path) -> None:
    arrives_while_it_waits(lab, tmp_path, RIGHT["read"])


def test_write_completes_as_the_vm_stops(lab: Lab, tmp_path: Path) -> None:
    """QEMU flushes the disk after it, by which time all is told."""
    arrives_while_it_waits(lab, tmp_path, RIGHT["write"])


@pytest.mark.parametrize("flag", [LIST, RequestFlag(0)], ids=["list", "no-list"])
def test_request_that_waits_migrates(lab: Lab, tmp_path: Path, flag: RequestFlag) -> None:
    """Its error has stopped the VM, and it is tried again where the VM arrives."""
    source, adapter, _ = started(machine(lab, *BAD_DISK, error="stop"))
    data = adapter.memory.put(b"\xff" * SECTOR)
    place = adapter.put_list((data, 16), (data + 16, SECTOR - 16)) if flag else data
    context = adapter.begin(READ_10, TO_HOST | flag, place, SECTOR)
    source.qmp.wait_event("STOP", lambda data: True, LATENCY_S * 20)
    destination = machine(lab, READABLE, error="stop", incoming=True)
    moved(source, adapter, destination, tmp_path)
    destination.qmp.execute("cont")
    assert adapter.finish() == Completion(context, HostStatus.SUCCESS, 0)
    assert adapter.memory.read(data, SECTOR) == bytes(SECTOR)
