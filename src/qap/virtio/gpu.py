"""A driver of a display that shows two-dimensional resources (virtio 1.3, section 5.7)."""

import struct
from collections.abc import Sequence
from enum import IntEnum

from qap.virtio.driver import SERVED_S, Driver
from qap.virtio.queue import Buffer

DEVICE_TYPE = 16
CONTROLQ = 0
# 5.7.6.7: type, flags, fence_id, ctx_id, ring_idx.
HEADER = "IIQIB3x"
PIXEL = 4
FORMAT = 1  # B8G8R8A8


class GpuRequest(IntEnum):
    """What a request is (5.7.6.7)."""

    CREATE_2D = 0x0101
    TRANSFER_TO_HOST_2D = 0x0105
    ATTACH_BACKING = 0x0106
    DETACH_BACKING = 0x0107


class GpuResponse(IntEnum):
    """What a device answers (5.7.6.7)."""

    OK = 0x1100
    UNSPECIFIED = 0x1200


class Gpu:
    """A display whose features are negotiated; sets DRIVER_OK."""

    def __init__(self, driver: Driver) -> None:
        self.driver = driver
        self._queue = driver.queue(CONTROLQ)
        driver.start()

    def create(self, resource: int, width: int, height: int) -> int:
        """Make a resource of this many pixels; returns the answer."""
        return self._ask(GpuRequest.CREATE_2D, "IIII", resource, FORMAT, width, height)

    def attach(self, resource: int, pieces: Sequence[Buffer]) -> int:
        """Give a resource memory; returns the answer."""
        entries = b"".join(struct.pack("<QI4x", piece.address, piece.size) for piece in pieces)
        return self._ask(GpuRequest.ATTACH_BACKING, "II", resource, len(pieces), data=entries)

    def detach(self, resource: int) -> int:
        """Take a resource's memory from it; returns the answer."""
        return self._ask(GpuRequest.DETACH_BACKING, "I4x", resource)

    def transfer(self, resource: int, width: int, height: int) -> int:
        """Let the device copy a resource from its memory; returns the answer."""
        rectangle = (0, 0, width, height)
        return self._ask(GpuRequest.TRANSFER_TO_HOST_2D, "IIIIQI4x", *rectangle, 0, resource)

    def _ask(self, request: GpuRequest, form: str, *values: int, data: bytes = b"") -> int:
        memory = self.driver.memory
        header = struct.pack(f"<{HEADER}", request, 0, 0, 0, 0)
        body = header + struct.pack(f"<{form}", *values) + data
        size = struct.calcsize(f"<{HEADER}")
        answer = memory.take(size)
        chain = [Buffer(memory.put(body), len(body)), Buffer(answer, size, writable=True)]
        self.driver.serve(self._queue, chain, SERVED_S)
        (kind,) = struct.unpack("<I", memory.read(answer, 4))
        return int(kind)
