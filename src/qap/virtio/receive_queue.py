"""Receive buffers, which the device uses when data arrive (virtio 1.3, section 2.6)."""

from qap.host.wait import poll_until
from qap.machine.guest_memory import PAGE, GuestMemory
from qap.virtio.driver import Driver
from qap.virtio.queue import Buffer
from qap.virtio.transport import VirtioError

COUNT = 8


class ReceiveQueue:
    """A queue whose buffers are all available to the device, which may use them at any time.

    Make it before DRIVER_OK is set; call `open` afterwards.

    Args:
        index: of the queue.
        size: bytes of each buffer.
        head: bytes at the start of each buffer that get a descriptor of their own; 0 for none.
        count: number of buffers, fewer if the queue is short; 0 for a single buffer that is
            available only during `take`.
    Raises:
        VirtioError: the device has no such queue.
    """

    def __init__(
        self, driver: Driver, index: int, size: int, *, head: int = 0, count: int = COUNT
    ) -> None:
        self._driver = driver
        self._size = size
        self._head = head
        self._lends = not count
        self._addresses: dict[int, int] = {}
        self.queue = driver.queue(index)
        most = self.queue.size // (2 if head else 1)
        self._free = [take_in_page(driver.memory, size) for _ in range(min(count, most) or 1)]
        if not self._lends:
            self._give()

    def open(self) -> None:
        """Notify the device of its buffers."""
        if self.queue.wants_notification():
            self._driver.transport.notify(self.queue.index)

    def take(self, what: str, timeout: float) -> bytes:
        """Wait for a used buffer and make it available again; returns what the device wrote.

        Args:
            what: name of what is awaited, for the TimeoutError.
            timeout: in seconds.
        Raises:
            TimeoutError: it wrote nothing.
            VirtioError: it wrote more than there is room for.
        """
        index = self.queue.index
        if self._free:
            self._give()
            self.open()
        used = poll_until(self.queue.take_used, timeout, lambda: f"{what} on queue {index}")
        if used.length > self._size:
            raise VirtioError(f"queue {index}: {used.length} bytes came in {self._size}")
        address = self._addresses.pop(used.id)
        data = self._driver.memory.read(address, used.length) if used.length else b""
        self._free.append(address)
        if not self._lends:
            self._give()
            self.open()
        return data

    def _give(self) -> None:
        while self._free:
            address = self._free.pop(0)
            chain = pieces(address, self._size, self._head, writable=True)
            self._addresses[self.queue.add(chain)] = address


def pieces(address: int, size: int, head: int, *, writable: bool) -> list[Buffer]:
    """A range of memory as a chain; its first `head` bytes, if any, are a buffer of their own."""
    parts = [(0, head), (head, size)]
    return [Buffer(address + start, end - start, writable) for start, end in parts if end > start]


def take_in_page(memory: GuestMemory, size: int) -> int:
    """The address of `size` zeroed bytes that do not cross a page, unless they are larger.

    Then an IOTLB has all of the buffer or nothing. DPDK 24.11 needs that: if it has the
    translation for only a part of a buffer, it may access wrong addresses.
    """
    return memory.take(size, min(PAGE, 1 << (size - 1).bit_length()))
