"""A network device's driver, without offloads (virtio 1.3, section 5.1)."""

import struct

from qap.oracle.features import FeatureBit
from qap.virtio.driver import SERVED_S, Driver
from qap.virtio.receive_queue import ReceiveQueue, pieces, take_in_page
from qap.virtio.transport import VirtioError

DEVICE_TYPE = 1
RECEIVEQ = 0
TRANSMITQ = 1

# 5.1.3.
FEATURE_MAC = 5
FEATURE_MRG_RXBUF = 15
FEATURE_STATUS = 16

# 5.1.4: offsets in the configuration, and a bit of status.
MAC = 0
MAC_SIZE = 6
STATUS = 6
STATUS_LINK_UP = 1

# 5.1.6: flags, gso_type, hdr_len, gso_size, csum_start, csum_offset; and num_buffers.
HEADER = "BBHHHH"
NUM_BUFFERS = "H"

# An Ethernet frame without its checksum: header, VLAN tag, payload.
FRAME_MAX = 14 + 4 + 1500


class Net:
    """A network card with one pair of queues, whose features are negotiated; sets DRIVER_OK.

    Frames begin with the destination address and end without a checksum.

    Args:
        room: bytes of a frame for which a receive buffer has room.
    """

    def __init__(self, driver: Driver, room: int = FRAME_MAX) -> None:
        self.driver = driver
        self._mergeable = driver.has(FEATURE_MRG_RXBUF)
        modern = driver.has(FeatureBit.VERSION_1)
        counted = self._mergeable or modern
        self._header = struct.Struct(driver.order + HEADER + (NUM_BUFFERS if counted else ""))
        # Without ANY_LAYOUT a legacy device wants the header in a descriptor of its own.
        self._head = 0 if modern else self.header_size
        self._receiveq = ReceiveQueue(driver, RECEIVEQ, self.header_size + room, head=self._head)
        self.transmitq = driver.queue(TRANSMITQ)
        self._sent = take_in_page(driver.memory, self.header_size + FRAME_MAX)
        driver.start()
        self._receiveq.open()

    @property
    def header_size(self) -> int:
        """Bytes of struct virtio_net_hdr: 10, or 12 with num_buffers (5.1.6)."""
        return self._header.size

    @property
    def mac(self) -> bytes:
        """The MAC address from the configuration, 6 bytes (5.1.4).

        Raises:
            VirtioError: the feature MAC was not accepted.
        """
        if not self.driver.has(FEATURE_MAC):
            raise VirtioError("the driver did not accept MAC: the device names no address")
        return self.driver.transport.config_read(MAC, MAC_SIZE)

    @property
    def link_up(self) -> bool:
        """Whether the link is up; always True if the feature STATUS was not accepted (5.1.4)."""
        if not self.driver.has(FEATURE_STATUS):
            return True
        raw = self.driver.transport.config_read(STATUS, 2)
        return bool(struct.unpack(f"{self.driver.order}H", raw)[0] & STATUS_LINK_UP)

    def send(self, frame: bytes, timeout: float = SERVED_S) -> None:
        """Send a frame and wait until the device has used its buffers (5.1.6.2).

        Raises:
            TimeoutError: it did not take the frame.
            ValueError: there are more than FRAME_MAX bytes, or none.
        """
        if not 0 < len(frame) <= FRAME_MAX:
            raise ValueError(f"a frame of {len(frame)} bytes is not one of 1 to {FRAME_MAX}")
        packet = bytes(self.header_size) + frame
        self.driver.memory.write(self._sent, packet)
        chain = pieces(self._sent, len(packet), self._head, writable=False)
        self.driver.serve(self.transmitq, chain, timeout)

    def receive(self, timeout: float = SERVED_S) -> bytes:
        """The next frame, joined if it came in several buffers (5.1.6.4).

        Raises:
            TimeoutError: no frame came, or not all of it.
            VirtioError: its header is incomplete or wrong.
        """
        data = self._receiveq.take("a frame", timeout)
        if len(data) < self.header_size:
            raise VirtioError(f"a frame came with {len(data)} bytes of header")
        # Without MRG_RXBUF num_buffers has to be 1 (5.1.6.4.1), but QEMU leaves it 0.
        buffers = self._header.unpack_from(data)[-1] if self._mergeable else 1
        if not buffers:
            raise VirtioError("a frame came in no buffers, by its num_buffers")
        rest = [self._receiveq.take("the rest of a frame", timeout) for _ in range(buffers - 1)]
        return data[self.header_size :] + b"".join(rest)
