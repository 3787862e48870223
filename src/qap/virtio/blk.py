"""A block device's driver (virtio 1.3, section 5.2)."""

import struct
from enum import IntEnum

from qap.virtio.driver import SERVED_S, Driver
from qap.virtio.queue import Buffer
from qap.virtio.transport import VirtioError

DEVICE_TYPE = 2
REQUESTQ = 0
SECTOR = 512
FEATURE_FLUSH = 9


class BlkRequest(IntEnum):
    """type of struct virtio_blk_req (5.2.6)."""

    IN = 0
    OUT = 1
    FLUSH = 4
    GET_ID = 8


class BlkStatus(IntEnum):
    """status of struct virtio_blk_req (5.2.6)."""

    OK = 0
    IOERR = 1
    UNSUPP = 2


UNANSWERED = 0xFF
ID_SIZE = 20


class BlkError(VirtioError):
    """The device answered a request with a status other than OK.

    Attributes:
        status: the status, a BlkStatus if known.
    """

    def __init__(self, request: BlkRequest, sector: int, status: int) -> None:
        known = [member.name for member in BlkStatus if member == status]
        super().__init__(f"{request.name} at sector {sector}: {(known or [hex(status)])[0]}")
        self.status = status


class Blk:
    """A disk whose features are negotiated; sets DRIVER_OK. Sectors have 512 bytes."""

    def __init__(self, driver: Driver) -> None:
        self.driver = driver
        self.requestq = driver.queue(REQUESTQ)
        driver.start()

    @property
    def capacity(self) -> int:
        """In sectors (5.2.4)."""
        (sectors,) = struct.unpack(f"{self.driver.order}Q", self.driver.transport.config_read(0, 8))
        return int(sectors)

    def read(self, sector: int, count: int = 1, timeout: float = SERVED_S) -> bytes:
        """The contents of `count` sectors; raises as `request` does."""
        return self.request(BlkRequest.IN, sector, room=SECTOR * count, timeout=timeout)

    def write(self, sector: int, data: bytes, timeout: float = SERVED_S) -> None:
        """Write whole sectors; raises as `request` does."""
        self.request(BlkRequest.OUT, sector, data, timeout=timeout)

    def flush(self, timeout: float = SERVED_S) -> None:
        """Commit what was written; raises as `request` does."""
        self.request(BlkRequest.FLUSH, timeout=timeout)

    def serial(self, timeout: float = SERVED_S) -> str:
        """The device's ID string, at most 20 characters; raises as `request` does."""
        answer = self.request(BlkRequest.GET_ID, room=ID_SIZE, timeout=timeout)
        return answer.partition(b"\0")[0].decode("ascii")

    def request(
        self,
        request: BlkRequest,
        sector: int = 0,
        data: bytes = b"",
        *,
        room: int = 0,
        timeout: float = SERVED_S,
    ) -> bytes:
        """Send a request with data for the device or room for its answer; returns the answer.

        Raises:
            BlkError: the device answered with an error.
            TimeoutError: it did not answer.
        """
        memory = self.driver.memory
        header = memory.put(struct.pack(f"{self.driver.order}IIQ", request, 0, sector))
        answer = memory.take(room) if room else 0
        status = memory.put(bytes([UNANSWERED]))
        chain = [Buffer(header, 16)]
        if data:
            chain.append(Buffer(memory.put(data), len(data)))
        if room:
            chain.append(Buffer(answer, room, writable=True))
        chain.append(Buffer(status, 1, writable=True))
        self.driver.serve(self.requestq, chain, timeout)
        said = memory.read(status, 1)[0]
        if said != BlkStatus.OK:
            raise BlkError(request, sector, said)
        return memory.read(answer, room) if room else b""
