"""The registers of virtio over MMIO, of both versions, for a hostile driver."""

from dataclasses import dataclass
from random import Random

from qap.machine import qtest_command as command
from qap.measure.hostile.wire import Place, Wire
from qap.virtio import mmio
from qap.virtio.mmio import Mmio
from qap.virtio.registers import MEMORY
from qap.virtio.transport import LEGACY_PAGE

CONFIG_SIZE = mmio.SLOT_SIZE - mmio.CONFIG


@dataclass
class MmioWire(Wire):
    """The registers of a virtio-mmio device."""

    transport: Mmio

    def _write(self, register: int, value: int) -> None:
        self._do(command.writel(self.transport.base + register, value & 0xFFFF_FFFF))

    def features(self, word: int, value: int) -> None:
        self.say(f"DriverFeatures[{word}] = {value:#x}")
        self._write(mmio.DRIVER_FEATURES_SEL, word)
        self._write(mmio.DRIVER_FEATURES, value)

    def status(self, value: int) -> None:
        self.say(f"Status = {value:#x}")
        self._write(mmio.STATUS, value)

    def place(self, queue: int, place: Place) -> None:
        self.size(queue, place.size)
        if self.transport.legacy:
            self.say(f"queue {queue}: QueuePFN = {place.desc >> 12:#x}")
            self._write(mmio.GUEST_PAGE_SIZE, LEGACY_PAGE)
            self._write(mmio.QUEUE_ALIGN, LEGACY_PAGE)
            self._write(mmio.QUEUE_PFN, place.desc >> 12)
            return
        self.say(
            f"queue {queue}: desc {place.desc:#x}, driver {place.driver:#x}, "
            f"device {place.device:#x}"
        )
        for low, address in (
            (mmio.QUEUE_DESC_LOW, place.desc),
            (mmio.QUEUE_DRIVER_LOW, place.driver),
            (mmio.QUEUE_DEVICE_LOW, place.device),
        ):
            self._write(low, address)
            self._write(low + 4, address >> 32)

    def size(self, queue: int, size: int) -> None:
        self.say(f"queue {queue}: QueueNum = {size}")
        self._write(mmio.QUEUE_SEL, queue)
        self._write(mmio.QUEUE_SIZE, size)

    def ready(self, queue: int, value: int) -> None:
        if not self.transport.legacy:
            self.say(f"queue {queue}: QueueReady = {value}")
            self._write(mmio.QUEUE_SEL, queue)
            self._write(mmio.QUEUE_READY, value)

    def reset_queue(self, queue: int) -> bool:
        if self.transport.legacy:
            return False
        self.say(f"queue {queue}: QueueReset = 1")
        self._write(mmio.QUEUE_SEL, queue)
        self._write(mmio.QUEUE_RESET, 1)
        # Stock QEMU has no such register: what it says of the queue's end counts for nothing.
        self.flush()
        return False

    def notify(self, queue: int) -> None:
        self.say(f"notify queue {queue}")
        self._write(mmio.QUEUE_NOTIFY, queue)

    def config_write(self, offset: int, data: bytes) -> None:
        self.say(f"configuration at {offset:#x} = {data.hex()}")
        at = self.transport.base + mmio.CONFIG + offset % (CONFIG_SIZE - 3)
        self._do(MEMORY[len(data)].write(at, int.from_bytes(data, "little")))

    def config_read(self, offset: int, size: int) -> None:
        self.say(f"read {size} bytes of configuration at {offset:#x}")
        at = self.transport.base + mmio.CONFIG + offset % (CONFIG_SIZE - 3)
        self._do(MEMORY[size].read(at))

    def stray(self, random: Random) -> None:
        width = random.choice((1, 2, 4, 4, 4, 4))
        register = random.randrange(mmio.CONFIG // 4) * 4 + (
            random.randrange(4) if width < 4 else 0
        )
        if random.random() < 0.25:
            self.say(f"read {width} bytes at {register:#x}")
            self._do(MEMORY[width].read(self.transport.base + register))
            return
        value = random.choice((0, 1, random.getrandbits(8 * width), (1 << 8 * width) - 1))
        self.say(f"register {register:#x} = {value:#x} ({width} bytes)")
        self.odd = self.odd or register >= mmio.QUEUE_DESC_LOW
        if self.transport.legacy:
            self.odd = self.odd or register in (
                mmio.GUEST_PAGE_SIZE,
                mmio.QUEUE_ALIGN,
                mmio.QUEUE_PFN,
            )
        self._do(MEMORY[width].write(self.transport.base + register, value))
