"""A host of SCSI for vhost-user-scsi: one target with a disk (virtio 1.3, 5.6)."""

import struct
from enum import IntEnum

from qap.vhost_user.chain_service import LATER, Later
from qap.vhost_user.scsi_disk import ScsiDisk, given, wanted
from qap.virtio.scsi import CDB_SIZE, CONTROLQ, EVENTQ, SENSE_SIZE

TARGET = 0
# 5.6.6.1, of the sizes that QEMU's configuration space has: a request is lun, id, task_attr,
# prio, crn and the command; its answer sense_len, residual, status_qualifier, status, response
# and the sense.
REQUEST = struct.Struct(f"<8sQBBB{CDB_SIZE}s")
RESPONSE = struct.Struct(f"<IIHBB{SENSE_SIZE}s")
# 5.6.6.2: a type, then the unit of a task management function or of an asynchronous event.
TYPE = struct.Struct("<I")
TASK = struct.Struct("<II8sQ")
ASYNC = struct.Struct("<I8sI")
T_TMF, T_AN_QUERY, T_AN_SUBSCRIBE = 0, 1, 2
SUBTYPES = range(8)
MOST = 0xFFFF_FFFF  # that a residual says
NO_EVENT = struct.pack("<I", 0)


class Answer(IntEnum):
    """VIRTIO_SCSI_S_* (5.6.6.1 and 5.6.6.2)."""

    OK = 0
    OVERRUN = 1
    BAD_TARGET = 3
    FAILURE = 9
    FUNCTION_REJECTED = 11
    INCORRECT_LUN = 12


def unit(lun: bytes) -> tuple[int, int] | None:
    """The target and LUN of a request (5.6.6.1); None if it is no such address."""
    if lun[0] != 1 or any(lun[4:]):
        return None
    # A single level LUN: with the flat space method, or the peripheral one (SAM-5, 4.7.5).
    if lun[2] & 0xC0 not in (0x00, 0x40):
        return None
    return lun[1], (lun[2] & 0x3F) << 8 | lun[3]


class ScsiHost:
    """A `ChainService` whose target 0 has a disk as LUN 0, and whose other targets don't exist.

    Args:
        disk: that disk.
    """

    def __init__(self, disk: ScsiDisk) -> None:
        self.disk = disk

    def __call__(self, queue: int, readable: bytes, room: int) -> bytes | Later:
        """See `ChainService`."""
        if queue == EVENTQ:
            return LATER
        return (_control(readable) if queue == CONTROLQ else self._command(readable, room))[:room]

    def _command(self, request: bytes, room: int) -> bytes:
        if len(request) < REQUEST.size or room < RESPONSE.size:
            return _response(Answer.FAILURE)
        lun, _, _, _, _, cdb = REQUEST.unpack_from(request)
        data, room = request[REQUEST.size :], room - RESPONSE.size
        where = unit(lun)
        if where is None or where[0] != TARGET:
            return _response(Answer.BAD_TARGET)
        if len(data) < wanted(cdb) or room < given(cdb):
            return _response(Answer.OVERRUN)
        ended = self.disk.execute(where[1], cdb, data)
        if len(ended.data) > room:
            return _response(Answer.OVERRUN)
        left = min(len(data) - ended.taken + room - len(ended.data), MOST)
        return _response(Answer.OK, ended.status, ended.sense, left) + ended.data


def _response(answer: Answer, status: int = 0, sense: bytes = b"", left: int = 0) -> bytes:
    return RESPONSE.pack(len(sense), left, 0, status, answer, sense)


def _control(request: bytes) -> bytes:
    """The answer to a request of the control queue (5.6.6.2): nothing is ever pending here."""
    (kind,) = TYPE.unpack_from(request.ljust(TYPE.size, b"\xff"))
    if kind == T_TMF and len(request) >= TASK.size:
        _, subtype, lun, _ = TASK.unpack_from(request)
        return bytes((_answer(lun) if subtype in SUBTYPES else Answer.FUNCTION_REJECTED,))
    if kind in (T_AN_QUERY, T_AN_SUBSCRIBE) and len(request) >= ASYNC.size:
        _, lun, _ = ASYNC.unpack_from(request)
        return NO_EVENT + bytes((_answer(lun),))
    return bytes((Answer.FAILURE,))


def _answer(lun: bytes) -> Answer:
    where = unit(lun)
    if where is None or where[0] != TARGET:
        return Answer.BAD_TARGET
    return Answer.INCORRECT_LUN if where[1] else Answer.OK
