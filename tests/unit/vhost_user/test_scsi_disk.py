"""A disk of SCSI: its answers to commands, in the layouts of SPC-4 and SBC-3."""

import os
import struct
from pathlib import Path

import pytest

from qap.vhost_user.scsi_disk import BLOCK, CHECK_CONDITION, GOOD, Command, Ended, ScsiDisk

BLOCKS = 64
ILLEGAL = 5


@pytest.fixture
def disk(tmp_path: Path) -> ScsiDisk:
    image = tmp_path / "disk.img"
    image.write_bytes(os.urandom(BLOCKS * BLOCK + 7))
    return ScsiDisk(image)


def said(ended: Ended) -> tuple[int, int, int]:
    """The sense key, the additional sense code and its qualifier of a command that failed."""
    assert ended.status == CHECK_CONDITION
    assert (ended.sense[0], len(ended.sense), ended.sense[7]) == (0x70, 18, 10)
    return ended.sense[2], ended.sense[12], ended.sense[13]


def good(disk: ScsiDisk, cdb: bytes, data: bytes = b"") -> bytes:
    ended = disk.execute(0, cdb.ljust(16, b"\0"), data)
    assert (ended.status, ended.sense) == (GOOD, b"")
    return ended.data


def test_inquiry_names_a_disk(disk: ScsiDisk) -> None:
    answer = good(disk, bytes((Command.INQUIRY, 0, 0, 0, 36)))
    assert (len(answer), answer[0], answer[2], answer[3] & 0xF, answer[4]) == (36, 0, 6, 2, 31)
    assert answer[8:16] == b"QAP     "
    assert good(disk, bytes((Command.INQUIRY, 0, 0, 0, 5))) == answer[:5]


def test_every_page_of_vital_product_data_that_is_listed_is_there(disk: ScsiDisk) -> None:
    pages = good(disk, bytes((Command.INQUIRY, 1, 0, 0, 255)))
    assert pages[:4] == bytes((0, 0, 0, len(pages) - 4))
    assert list(pages[4:]) == sorted(pages[4:])
    for page in pages[4:]:
        answer = good(disk, bytes((Command.INQUIRY, 1, page, 0, 255)))
        assert (answer[1], struct.unpack_from(">H", answer, 2)) == (page, (len(answer) - 4,))
    assert len(good(disk, bytes((Command.INQUIRY, 1, 0xB0, 0, 255)))) == 64
    refused = disk.execute(0, bytes((Command.INQUIRY, 1, 0xB2, 0, 255)).ljust(16, b"\0"))
    assert said(refused) == (ILLEGAL, 0x24, 0)


def test_designator_has_its_own_length(disk: ScsiDisk) -> None:
    answer = good(disk, bytes((Command.INQUIRY, 1, 0x83, 0, 255)))
    code_set, kind, _, size = answer[4:8]
    assert (code_set, kind, size) == (2, 1, len(answer) - 8)


def test_capacity_is_of_whole_blocks(disk: ScsiDisk) -> None:
    short = good(disk, bytes((Command.READ_CAPACITY_10,)))
    assert struct.unpack(">II", short) == (BLOCKS - 1, BLOCK)
    cdb = struct.pack(">BB8xI", Command.SERVICE_ACTION_IN_16, 0x10, 32)
    long = good(disk, cdb)
    assert (len(long), struct.unpack_from(">QI", long)) == (32, (BLOCKS - 1, BLOCK))
    other = struct.pack(">BB8xIxx", Command.SERVICE_ACTION_IN_16, 0x12, 32)
    assert said(disk.execute(0, other)) == (ILLEGAL, 0x24, 0)


@pytest.mark.parametrize("layout", [(">BxIxHx", Command.READ_10), (">BxQIxx", Command.READ_16)])
def test_blocks_are_those_of_the_image(disk: ScsiDisk, layout: tuple[str, int]) -> None:
    form, command = layout
    data = disk.image.read_bytes()
    assert good(disk, struct.pack(form, command, 3, 2)) == data[3 * BLOCK : 5 * BLOCK]
    write = Command.WRITE_10 if command == Command.READ_10 else Command.WRITE_16
    new = os.urandom(2 * BLOCK)
    assert good(disk, struct.pack(form, write, 62, 2), new) == b""
    assert disk.image.read_bytes() == data[: 62 * BLOCK] + new + data[-7:]


@pytest.mark.parametrize(
    "cdb",
    [
        struct.pack(">BxIxHx", Command.READ_10, BLOCKS - 1, 2),
        struct.pack(">BxIxHx", Command.WRITE_10, BLOCKS, 1),
        struct.pack(">BxQIxx", Command.READ_16, 1 << 63, 1),
        struct.pack(">BxIxHx", Command.SYNCHRONIZE_CACHE_10, BLOCKS + 1, 0),
    ],
)
def test_blocks_beyond_the_end_are_refused(disk: ScsiDisk, cdb: bytes) -> None:
    assert said(disk.execute(0, cdb.ljust(16, b"\0"), bytes(BLOCK))) == (ILLEGAL, 0x21, 0)


def test_cache_is_one_that_linux_flushes(disk: ScsiDisk) -> None:
    """The page Caching has WCE, in both headers."""
    six = good(disk, bytes((Command.MODE_SENSE_6, 8, 0x08, 0, 255)))
    assert (six[0], six[3]) == (len(six) - 1, 0)
    assert (six[4], six[5], six[6] & 4) == (0x08, 18, 4)
    ten = good(disk, bytes((Command.MODE_SENSE_10, 8, 0x3F, 0, 0, 0, 0, 0, 255)))
    assert struct.unpack_from(">H4xH", ten) == (len(ten) - 2, 0)
    assert ten[8:28] == six[4:]
    assert ten[28:30] == bytes((0x0A, 10))
    good(disk, bytes((Command.SYNCHRONIZE_CACHE_10,)))
    good(disk, bytes((Command.SYNCHRONIZE_CACHE_16,)))


def test_pages_that_it_has_not_are_refused(disk: ScsiDisk) -> None:
    unknown = bytes((Command.MODE_SENSE_6, 0, 0x1C, 0, 255)).ljust(16, b"\0")
    assert said(disk.execute(0, unknown)) == (ILLEGAL, 0x24, 0)
    saved = bytes((Command.MODE_SENSE_6, 0, 0xC8, 0, 255)).ljust(16, b"\0")
    assert said(disk.execute(0, saved)) == (ILLEGAL, 0x39, 0)


def test_units_are_reported(disk: ScsiDisk) -> None:
    answer = good(disk, struct.pack(">B5xI", Command.REPORT_LUNS, 4096))
    assert answer == struct.pack(">I4xQ", 8, 0)


def test_all_other_commands_have_sense(disk: ScsiDisk) -> None:
    known = set(Command)
    for code in set(range(256)) - known:
        assert said(disk.execute(0, bytes((code,)).ljust(16, b"\0"))) == (ILLEGAL, 0x20, 0)


def test_unit_that_is_not_there(disk: ScsiDisk) -> None:
    """It says so when it is asked what it is, and fails otherwise (SPC-4, 4.6.4)."""
    asked = disk.execute(1, bytes((Command.INQUIRY, 0, 0, 0, 36)).ljust(16, b"\0"))
    assert (asked.status, asked.data[0], len(asked.data)) == (GOOD, 0x7F, 36)
    assert said(disk.execute(1, bytes(16))) == (ILLEGAL, 0x25, 0)
    assert disk.execute(1, struct.pack(">B5xI6x", Command.REPORT_LUNS, 16)).status == GOOD


def test_image_that_is_gone_is_an_error_of_the_target(disk: ScsiDisk) -> None:
    disk.image.unlink()
    cdb = struct.pack(">BxIxHx", Command.READ_10, 0, 1).ljust(16, b"\0")
    assert said(disk.execute(0, cdb)) == (4, 0x44, 0)
