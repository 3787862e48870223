"""A SCSI controller whose frames, rings or sense buffers are private goes on."""

import struct
from pathlib import Path

from qap.hw.pci_bus import PciBus
from qap.hw.x86_cpu import Mode
from qap.machine import qtest_command as command
from qap.machine.guest_memory import MIB, PAGE, GuestMemory
from qap.scenario.confidential import Shared
from qap.verify.kit.sev_guest import started

RINGS, ROOM = 32 * MIB, 8 * MIB
PRIVATE = 48 * MIB

# LSI's MegaRAID SAS 1078, as Linux's megaraid_sas has it.
MEGASAS = 0x1000, 0x0060
INBOUND_QUEUE = 0x40
FRAMES = 1000
NO_SUCH_COMMAND, INVALID_COMMAND = 0x7F, 1

# VMware's PVSCSI, as Linux's vmw_pvscsi has it.
PVSCSI = 0x15AD, 0x07C0
COMMAND, COMMAND_DATA, KICK = 0x0, 0x4, 0x3014
SETUP_RINGS = 3
SETUP = "<IIQ32Q32Q"
REQUEST = "<QQQQII16sB8sBBBB59x"
TEST_UNIT_READY, SENSE = 0x00, 18
SIMPLE_TAG = 0x20


def test_megasas_takes_frames_after_as_many_that_it_could_not_read(tmp_path: Path) -> None:
    with started(
        tmp_path, Mode.LONG, board="pc", devices=[{"driver": "megasas", "id": "dut"}]
    ) as guest:
        qtest = guest.machine.qtest
        guest.protect()
        guest.share(RINGS, ROOM)
        queue = PciBus(qtest).find(*MEGASAS).map_bars()[0].address + INBOUND_QUEUE
        qtest.run_all([command.writel(queue, PRIVATE)] * FRAMES)
        frame = GuestMemory(qtest, RINGS, ROOM).take(PAGE, PAGE)
        qtest.write(frame, bytes([NO_SUCH_COMMAND, 0, 0xFF]))
        qtest.writel(queue, frame)
        assert qtest.readb(frame + 2) == INVALID_COMMAND


def test_pvscsi_writes_neither_sense_nor_completions_into_private_memory(tmp_path: Path) -> None:
    """There is no target, so that the device writes sense at once."""
    with started(
        tmp_path, Mode.LONG, board="pc", devices=[{"driver": "pvscsi", "id": "dut"}]
    ) as guest:
        qtest = guest.machine.qtest
        guest.protect()
        guest.share(RINGS, ROOM)
        memory = GuestMemory(qtest, RINGS, ROOM)
        registers = PciBus(qtest).find(*PVSCSI).map_bars()[0].address
        state, requests = memory.take(PAGE, PAGE), memory.take(PAGE, PAGE)
        filled = b"\x5a" * PAGE
        qtest.write(PRIVATE, filled)
        pages = [requests // PAGE, *[0] * 31], [PRIVATE // PAGE, *[0] * 31]
        setup = struct.pack(SETUP, 1, 1, state // PAGE, *pages[0], *pages[1])
        qtest.writel(registers + COMMAND, SETUP_RINGS)
        for (word,) in struct.iter_unpack("<I", setup):
            qtest.writel(registers + COMMAND_DATA, word)
        cdb = bytes([TEST_UNIT_READY]).ljust(16, b"\0")
        request = struct.pack(
            *(REQUEST, 1, 0, 0, PRIVATE + 2048, SENSE, 0, cdb, 6),
            *(bytes(8), SIMPLE_TAG, 0, 5, 0),
        )
        qtest.write(requests, request)
        qtest.writel(state, 1)
        qtest.writel(registers + KICK, 0)
        assert qtest.read(PRIVATE, PAGE) == filled
        ((device, (_, writes)),) = Shared.of(guest.machine).violations.items()
        assert device == "dut"
        assert writes
