"""A controller of NVM Express, with an admin queue and one for I/O.

"NVMe" in a docstring is the NVM Express specification 1.4.
"""

import struct
from dataclasses import dataclass, field

from qap.host.wait import poll_until
from qap.hw.pci import Function
from qap.machine.guest_memory import GuestMemory

VENDOR_ID, DEVICE_ID = 0x1B36, 0x0010  # of QEMU's controller
ANSWER_S = 20.0
ENTRIES = 16
PAGE = 4096
BLOCK = 512

# NVMe 3.1: registers.
CONFIGURATION, STATUS, QUEUE_SIZES, SUBMISSIONS, COMPLETIONS = 0x14, 0x1C, 0x24, 0x28, 0x30
DOORBELLS = 0x1000
ENABLE, ENTRY_SIZES = 1 << 0, 4 << 20 | 6 << 16
READY, FATAL = 1 << 0, 1 << 1

# NVMe, chapters 5 and 6: opcodes.
DELETE_SUBMISSIONS, CREATE_SUBMISSIONS, CREATE_COMPLETIONS = 0x00, 0x01, 0x05
WRITE, READ = 0x01, 0x02
CONTIGUOUS = 1 << 0
IO_QUEUE = 1


class NvmeFailed(Exception):
    """A command ended with an error, or the controller did.

    Attributes:
        status: of the command (NVMe 4.6.1), 0 if the controller failed.
    """

    def __init__(self, status: int) -> None:
        super().__init__(f"status {status:#x}" if status else "the controller failed")
        self.status = status


@dataclass
class NvmeQueue:
    """A pair of rings of the same number."""

    number: int
    submissions: int
    completions: int
    tail: int = 0
    head: int = 0
    phase: int = 1


@dataclass
class Nvme:
    """A controller whose queues are in `memory`; one command at a time.

    Attributes:
        admin, io: its queues, once it is started.
    """

    function: Function
    memory: GuestMemory
    admin: NvmeQueue = field(init=False)
    io: NvmeQueue = field(init=False)

    def __post_init__(self) -> None:
        self._registers = self.function.map_bars()[0].address

    def _queue(self, number: int) -> NvmeQueue:
        return NvmeQueue(number, self.memory.take(PAGE, PAGE), self.memory.take(PAGE, PAGE))

    def start(self) -> None:
        """Reset the controller, and make the queues (NVMe 7.6.1).

        Raises:
            NvmeFailed: a queue could not be made.
        """
        qtest, at = self.function.qtest, self._registers
        qtest.writel(at + CONFIGURATION, 0)
        self._until(READY, 0)
        self.admin, self.io = self._queue(0), self._queue(IO_QUEUE)
        qtest.writel(at + QUEUE_SIZES, (ENTRIES - 1) << 16 | ENTRIES - 1)
        qtest.writeq(at + SUBMISSIONS, self.admin.submissions)
        qtest.writeq(at + COMPLETIONS, self.admin.completions)
        qtest.writel(at + CONFIGURATION, ENABLE | ENTRY_SIZES)
        self._until(READY, READY)
        self._create(self.io)

    def add_queue(self, number: int, completions: int | None = None) -> NvmeQueue:
        """Make another queue for I/O; raises as `start` does.

        Args:
            completions: address of their ring; None for a page of memory.
        """
        queue = self._queue(number)
        if completions is not None:
            queue.completions = completions
        self._create(queue)
        return queue

    def _create(self, queue: NvmeQueue) -> None:
        size = (ENTRIES - 1) << 16 | queue.number
        self._run(self.admin, CREATE_COMPLETIONS, (queue.completions, 0), size, CONTIGUOUS)
        bound = queue.number << 16 | CONTIGUOUS
        self._run(self.admin, CREATE_SUBMISSIONS, (queue.submissions, 0), size, bound)

    def delete_submissions(self, queue: NvmeQueue) -> None:
        """End what is in a queue for I/O, and take no more (NVMe 5.6).

        Raises:
            NvmeFailed: it ended with an error.
        """
        self._run(self.admin, DELETE_SUBMISSIONS, (0, 0), queue.number)

    def wait_failed(self) -> None:
        """Wait until the controller says that it has failed (NVMe 9.5).

        Raises:
            TimeoutError: it does not.
        """
        self._until(FATAL, FATAL)

    def _until(self, mask: int, value: int) -> None:
        status = self._registers + STATUS
        poll_until(
            lambda: self.function.qtest.readl(status) & mask == value or None,
            ANSWER_S,
            lambda: f"the controller's status to be {value:#x}",
        )

    def read(self, block: int, address: int, size: int) -> None:
        """Read whole blocks into memory, of at most two pages; raises as `write` does."""
        self._move(READ, block, address, size)

    def write(self, block: int, address: int, size: int) -> None:
        """Write whole blocks from memory, of at most two pages.

        Raises:
            NvmeFailed: it ended with an error.
            TimeoutError: it doesn't end.
        """
        self._move(WRITE, block, address, size)

    def _move(self, opcode: int, block: int, address: int, size: int) -> None:
        second = (address // PAGE + 1) * PAGE
        entries = address, second if address + size > second else 0
        self.move_by(entries, opcode, block, size // BLOCK)

    def move_by(self, entries: tuple[int, int], opcode: int, block: int, count: int) -> None:
        """Run READ or WRITE for blocks, with PRP entries as they are given; raises as `write`.

        Args:
            entries: where the data is; the second may be the address of a list (NVMe 4.3).
        """
        words = block & 0xFFFF_FFFF, block >> 32, count - 1
        self._run(self.io, opcode, entries, *words, namespace=1)

    def begin(
        self,
        queue: NvmeQueue,
        opcode: int,
        entries: tuple[int, int],
        *words: int,
        namespace: int = 0,
    ) -> None:
        """Submit a command, and don't wait for it.

        Args:
            entries: its two PRP entries.
            words: from dword 10 on.
        """
        padded = [*words, *[0] * (6 - len(words))]
        head = struct.pack("<IIQQQQ", opcode, namespace, 0, 0, *entries)
        self.memory.write(queue.submissions + 64 * queue.tail, head + struct.pack("<6I", *padded))
        queue.tail = (queue.tail + 1) % ENTRIES
        self._ring(2 * queue.number, queue.tail)

    def finish(self, queue: NvmeQueue, what: str) -> None:
        """Wait for the next command of a queue to end; raises as `write` does."""
        status = poll_until(lambda: self._completed(queue), ANSWER_S, lambda: what)
        queue.head = (queue.head + 1) % ENTRIES
        queue.phase ^= not queue.head
        self._ring(2 * queue.number + 1, queue.head)
        if status >> 1:
            raise NvmeFailed(status >> 1)

    def _run(
        self,
        queue: NvmeQueue,
        opcode: int,
        entries: tuple[int, int],
        *words: int,
        namespace: int = 0,
    ) -> None:
        self.begin(queue, opcode, entries, *words, namespace=namespace)
        self.finish(queue, f"NVMe command {opcode:#x}")

    def _ring(self, index: int, value: int) -> None:
        self.function.qtest.writel(self._registers + DOORBELLS + 4 * index, value)

    def _completed(self, queue: NvmeQueue) -> int | None:
        if self.function.qtest.readl(self._registers + STATUS) & FATAL:
            raise NvmeFailed(0)
        at = queue.completions + 16 * queue.head + 14
        status: int = struct.unpack("<H", self.memory.read(at, 2))[0]
        return status if status & 1 == queue.phase else None
