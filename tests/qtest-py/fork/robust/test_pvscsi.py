"""Each request that a PVSCSI adapter takes ends, and releases what it holds.

A request that stays asserts at the next reset. One that keeps its list of addresses keeps the
adapter from being freed.
"""

from collections.abc import Callable
from pathlib import Path

import pytest

from qap.hw.pci_bus import PciBus
from qap.hw.pvscsi import (
    DEVICE_ID,
    VENDOR_ID,
    Completion,
    Direction,
    HostStatus,
    Pvscsi,
    PvscsiCommand,
)
from qap.machine.device import Device
from qap.machine.guest_memory import MIB, GuestMemory
from qap.machine.machine import Machine
from qap.verify.kit.checks import reset_machine
from qap.verify.kit.lab import Lab
from qap.verify.kit.migrate import ARRIVED, migrate
from qap.verify.kit.slot import DUT, NATIVE, PORT, power_off, wait_gone
from qap.verify.kit.slow_disk import null_disk

SECTOR = 512
READ_10, WRITE_10 = (bytes([code, 0, 0, 0, 0, 0, 0, 0, 1, 0]) for code in (0x28, 0x2A))
TEST_UNIT_READY = bytes(6)
WRONG = {"read": (READ_10, Direction.TODEVICE), "write": (WRITE_10, Direction.TOHOST)}
RIGHT = {"read": (READ_10, Direction.TOHOST), "write": (WRITE_10, Direction.TODEVICE)}
DEVICES: list[Device] = [
    {"driver": "pvscsi", "id": DUT, "bus": PORT},
    {"driver": "scsi-hd", "id": "disk", "drive": "disk0", "scsi-id": 0},
]
LATENCY_S = 0.2

Guest = tuple[Machine, Pvscsi]
End = Callable[[Guest, int], object]

ENDS: dict[str, End] = {
    "unplug": lambda guest, context: None,
    "adapter-reset": lambda guest, context: guest[1].command(PvscsiCommand.ADAPTER_RESET),
    "bus-reset": lambda guest, context: guest[1].command(PvscsiCommand.RESET_BUS),
    "device-reset": lambda guest, context: guest[1].command(PvscsiCommand.RESET_DEVICE, bytes(12)),
    "abort": lambda guest, context: guest[1].abort(context),
    "system-reset": lambda guest, context: reset_machine(guest[0]),
}


def started(lab: Lab, disk: str) -> Guest:
    machine = lab.machine(*DEVICES, blockdevs=[disk], extra=NATIVE, qtest=True)
    function = PciBus(machine.qtest).find(VENDOR_ID, DEVICE_ID)
    adapter = Pvscsi(function, GuestMemory(machine.qtest, 16 * MIB, 4 * MIB))
    adapter.start()
    adapter.begin(TEST_UNIT_READY, Direction.NONE, 0, 0)
    adapter.finish()
    return machine, adapter


def begin(guest: Guest, request: tuple[bytes, Direction]) -> int:
    _, adapter = guest
    return adapter.begin(*request, adapter.memory.take(SECTOR), SECTOR)


@pytest.mark.parametrize("request_", WRONG.values(), ids=WRONG)
def test_wrong_direction_is_told(lab: Lab, request_: tuple[bytes, Direction]) -> None:
    """It ends as Linux knows it, and the next one is served."""
    guest = started(lab, null_disk())
    _, adapter = guest
    context = begin(guest, request_)
    assert adapter.finish() == Completion(context, HostStatus.BADMSG, 0)
    context = begin(guest, RIGHT["read"])
    assert adapter.finish() == Completion(context, HostStatus.SUCCESS, 0)


@pytest.mark.parametrize("end", ENDS.values(), ids=ENDS)
@pytest.mark.parametrize("request_", WRONG.values(), ids=WRONG)
def test_wrong_direction_and_its_end(lab: Lab, request_: tuple[bytes, Direction], end: End) -> None:
    """A reset comes after it; then the power goes."""
    guest = started(lab, null_disk())
    end(guest, begin(guest, request_))
    guest[1].start()
    power_off(guest[0])
    wait_gone(guest[0])


def test_wrong_direction_and_migration(lab: Lab, tmp_path: Path) -> None:
    guest = started(lab, null_disk())
    begin(guest, WRONG["read"])
    other = lab.machine(
        *DEVICES, blockdevs=[null_disk()], extra=(*NATIVE, "-incoming", "defer"), qtest=True
    )
    assert migrate(guest[0], other, tmp_path) == ARRIVED


@pytest.mark.parametrize("end", ENDS.values(), ids=ENDS)
@pytest.mark.parametrize("request_", RIGHT.values(), ids=RIGHT)
def test_request_in_the_disk(lab: Lab, request_: tuple[bytes, Direction], end: End) -> None:
    """The one that is cancelled releases its list; then the power goes."""
    guest = started(lab, null_disk(latency_s=LATENCY_S))
    end(guest, begin(guest, request_))
    power_off(guest[0])
    wait_gone(guest[0])
