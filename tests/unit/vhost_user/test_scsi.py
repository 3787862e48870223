"""The host behind a vhost-user-scsi: requests and answers of virtio 1.3, 5.6.6."""

import os
import struct
from pathlib import Path

import pytest

from qap.vhost_user.chain_service import LATER
from qap.vhost_user.scsi import ScsiHost
from qap.vhost_user.scsi_disk import BLOCK, Command, ScsiDisk
from qap.virtio.scsi import CONTROLQ, EVENTQ, REQUESTQ, Unit

# lun, id, task_attr, prio, crn and 32 bytes of command; sense_len to response, and the sense.
HEADER, ANSWER, SENSE = 19, 12, 96
OK, OVERRUN, BAD_TARGET, FAILURE, REJECTED, INCORRECT_LUN = 0, 1, 3, 9, 11, 12


@pytest.fixture
def host(tmp_path: Path) -> ScsiHost:
    image = tmp_path / "disk.img"
    image.write_bytes(os.urandom(8 * BLOCK))
    return ScsiHost(ScsiDisk(image))


def request(unit: bytes, cdb: bytes) -> bytes:
    return (unit + struct.pack("<QBBB", 7, 0, 0, 0)).ljust(HEADER, b"\0") + cdb.ljust(32, b"\0")


def asked(
    host: ScsiHost, cdb: bytes, data: bytes = b"", room: int = 0, unit: bytes | None = None
) -> tuple[int, int, int, bytes, bytes]:
    """The response, status and residual of a command, its sense and its data."""
    where = Unit(0).pack() if unit is None else unit
    got = host(REQUESTQ, request(where, cdb) + data, ANSWER + SENSE + room)
    assert isinstance(got, bytes)
    size, left, _, status, response = struct.unpack_from("<IIHBB", got)
    return response, status, left, got[ANSWER : ANSWER + size], got[ANSWER + SENSE :]


READ = struct.pack(">BxIxHx", Command.READ_10, 1, 2)
WRITE = struct.pack(">BxIxHx", Command.WRITE_10, 1, 2)


def test_data_follow_the_sense(host: ScsiHost) -> None:
    image = host.disk.image.read_bytes()
    assert asked(host, READ, room=2 * BLOCK) == (OK, 0, 0, b"", image[BLOCK : 3 * BLOCK])


def test_what_was_not_moved_is_the_residual(host: ScsiHost) -> None:
    assert asked(host, READ, room=2 * BLOCK + 9)[:3] == (OK, 0, 9)
    assert asked(host, WRITE, bytes(2 * BLOCK + 5))[:3] == (OK, 0, 5)


def test_buffers_that_are_too_small_are_an_overrun(host: ScsiHost) -> None:
    before = host.disk.image.read_bytes()
    assert asked(host, READ, room=2 * BLOCK - 1)[0] == OVERRUN
    assert asked(host, WRITE, bytes(2 * BLOCK - 1))[0] == OVERRUN
    assert host.disk.image.read_bytes() == before


def test_residual_is_at_most_what_its_field_holds(host: ScsiHost) -> None:
    """As with a descriptor that says 4 GiB."""
    got = host(REQUESTQ, request(Unit(0).pack(), bytes(16)), 1 << 32 | 4096)
    assert isinstance(got, bytes)
    assert int.from_bytes(got[4:8], "little") == 0xFFFF_FFFF


def test_sense_comes_with_its_length(host: ScsiHost) -> None:
    response, status, left, sense, data = asked(host, b"\xff", room=36)
    assert (response, status, left, len(sense), data) == (OK, 2, 36, 18, b"")


@pytest.mark.parametrize(
    "unit", [Unit(1).pack(), bytes(8), b"\1\0\xc1\0\0\0\0\0", b"\1\0\x40\0\0\1\0\0"]
)
def test_other_targets_are_not_there(host: ScsiHost, unit: bytes) -> None:
    assert asked(host, READ, room=2 * BLOCK, unit=unit)[0] == BAD_TARGET


def test_other_units_are_not_there(host: ScsiHost) -> None:
    response, status, _, sense, _ = asked(host, READ, room=2 * BLOCK, unit=Unit(0, 300).pack())
    assert (response, status, sense[12]) == (OK, 2, 0x25)


@pytest.mark.parametrize("size", [0, 18, 50])
def test_request_that_is_cut_off_fails(host: ScsiHost, size: int) -> None:
    got = host(REQUESTQ, request(Unit(0).pack(), READ)[:size], ANSWER + SENSE)
    assert isinstance(got, bytes)
    assert got[11] == FAILURE
    assert host(REQUESTQ, request(Unit(0).pack(), READ), 3) == bytes(3)


@pytest.mark.parametrize(
    ("body", "answer"),
    [
        (struct.pack("<II8sQ", 0, 5, Unit(0).pack(), 7), bytes((OK,))),
        (struct.pack("<II8sQ", 0, 99, Unit(0).pack(), 7), bytes((REJECTED,))),
        (struct.pack("<II8sQ", 0, 5, Unit(3).pack(), 7), bytes((BAD_TARGET,))),
        (struct.pack("<II8sQ", 0, 5, Unit(0, 1).pack(), 7), bytes((INCORRECT_LUN,))),
        (struct.pack("<I8sI", 1, Unit(0).pack(), 2), bytes((0, 0, 0, 0, OK))),
        (struct.pack("<I8sI", 2, Unit(0).pack(), 2), bytes((0, 0, 0, 0, OK))),
        (struct.pack("<I", 0), bytes((FAILURE,))),
        (struct.pack("<I", 9), bytes((FAILURE,))),
        (b"", bytes((FAILURE,))),
    ],
)
def test_control_requests_are_answered(host: ScsiHost, body: bytes, answer: bytes) -> None:
    assert host(CONTROLQ, body, 64) == answer


def test_no_event_ever_comes(host: ScsiHost) -> None:
    assert host(EVENTQ, b"", 16) is LATER
