"""A SCSI host's driver: commands to logical units (virtio 1.3, section 5.6)."""

import struct
from contextlib import suppress
from dataclasses import dataclass

from qap.virtio.driver import SERVED_S, Driver
from qap.virtio.queue import Buffer
from qap.virtio.transport import VirtioError

DEVICE_TYPE = 8
CONTROLQ = 0
EVENTQ = 1
REQUESTQ = 2

# 5.6.6.1: lun, id, task_attr, prio, crn; a CDB of the default size follows.
REQUEST = "8sQBBB"
CDB_SIZE = 32
# sense_len, residual, status_qualifier, status, response; and sense of the default size.
RESPONSE = "IIHBB"
SENSE_SIZE = 96
UNANSWERED = b"\xff"
OK = 0
GOOD = 0

# SCSI Primary and Block Commands: operation codes.
TEST_UNIT_READY = 0x00
INQUIRY = 0x12
READ_10 = 0x28
WRITE_10 = 0x2A
BLOCK = 512


class ScsiError(VirtioError):
    """A command failed.

    Attributes:
        response: of the device, OK if the target was asked.
        status: of the target, as SCSI has it.
        sense: what it says of that.
    """

    def __init__(self, response: int, status: int, sense: bytes) -> None:
        super().__init__(f"a command ended with response {response}, status {status:#x}")
        self.response = response
        self.status = status
        self.sense = sense


@dataclass(frozen=True)
class Unit:
    """A logical unit's address: a target, and a LUN of less than 16384 (5.6.6.1)."""

    target: int
    lun: int = 0

    def pack(self) -> bytes:
        """Its eight bytes in a request."""
        return struct.pack(">BBH4x", 1, self.target, 0x4000 | self.lun)


class Scsi:
    """A SCSI host whose features are negotiated; sets DRIVER_OK. Blocks have 512 bytes."""

    def __init__(self, driver: Driver) -> None:
        self.driver = driver
        for queue in (CONTROLQ, EVENTQ):
            driver.queue(queue)
        self.requestq = driver.queue(REQUESTQ)
        driver.start()

    def wake(self, unit: Unit) -> None:
        """Take what a unit says once after a reset (UNIT ATTENTION), if it says that."""
        with suppress(ScsiError):
            self.command(unit, struct.pack(">B5x", TEST_UNIT_READY))

    def inquiry(self, unit: Unit, room: int = 36) -> bytes:
        """What a unit says of itself; raises as `command` does."""
        return self.command(unit, struct.pack(">BxxHx", INQUIRY, room), room=room)

    def read(self, unit: Unit, block: int, count: int = 1) -> bytes:
        """The contents of `count` blocks; raises as `command` does."""
        cdb = struct.pack(">BxIxHx", READ_10, block, count)
        return self.command(unit, cdb, room=BLOCK * count)

    def write(self, unit: Unit, block: int, data: bytes) -> None:
        """Write whole blocks; raises as `command` does."""
        self.command(unit, struct.pack(">BxIxHx", WRITE_10, block, len(data) // BLOCK), data)

    def command(
        self,
        unit: Unit,
        cdb: bytes,
        data: bytes = b"",
        *,
        room: int = 0,
        timeout: float = SERVED_S,
    ) -> bytes:
        """Send a command with data for the unit or room for its answer; returns the answer.

        Raises:
            ScsiError: it failed.
            TimeoutError: it was not answered.
        """
        memory, order = self.driver.memory, self.driver.order
        header = struct.pack(f"{order}{REQUEST}", unit.pack(), 0, 0, 0, 0)
        size = struct.calcsize(f"{order}{RESPONSE}")
        said = memory.put(UNANSWERED * (size + SENSE_SIZE))
        request = header + cdb.ljust(CDB_SIZE, b"\0")
        chain = [Buffer(memory.put(request), len(request))]
        if data:
            chain.append(Buffer(memory.put(data), len(data)))
        chain.append(Buffer(said, size + SENSE_SIZE, writable=True))
        answer = memory.take(room) if room else 0
        if room:
            chain.append(Buffer(answer, room, writable=True))
        self.driver.serve(self.requestq, chain, timeout)
        sense_size, _, _, status, response = struct.unpack(
            f"{order}{RESPONSE}", memory.read(said, size)
        )
        if response != OK or status != GOOD:
            sense = memory.read(said + size, SENSE_SIZE)[:sense_size]
            raise ScsiError(response, status, sense)
        return memory.read(answer, room) if room else b""
