"""The registers of virtio over PCI, modern and legacy, for a hostile driver."""

from dataclasses import dataclass
from random import Random

from qap.hw.pci import CAPABILITY_VENDOR
from qap.machine import qtest_command as command
from qap.measure.hostile.wire import Place, Wire
from qap.virtio import pci_legacy as legacy
from qap.virtio import pci_modern as modern
from qap.virtio.pci_legacy import PciLegacy
from qap.virtio.pci_modern import PciModern
from qap.virtio.registers import MEMORY, PORTS

COMMON_END = 0x40
# 4.1.4.9: cfg_type of the window into the BARs, and its fields.
PCI_CFG = 5
CFG_BAR, CFG_OFFSET, CFG_LENGTH, CFG_DATA = 4, 8, 12, 16


@dataclass
class ModernWire(Wire):
    """The common configuration of a modern PCI device."""

    transport: PciModern

    def _at(self, register: int) -> int:
        return self.transport.regions[modern.COMMON_CFG].address + register

    def _select(self, queue: int) -> None:
        self._do(command.writew(self._at(modern.QUEUE_SELECT), queue & 0xFFFF))

    def features(self, word: int, value: int) -> None:
        self.say(f"driver_feature[{word}] = {value:#x}")
        self._do(
            command.writel(self._at(modern.DRIVER_FEATURE_SELECT), word),
            command.writel(self._at(modern.DRIVER_FEATURE), value),
        )

    def status(self, value: int) -> None:
        self.say(f"device_status = {value:#x}")
        self._do(command.writeb(self._at(modern.DEVICE_STATUS), value))

    def place(self, queue: int, place: Place) -> None:
        self.say(
            f"queue {queue}: size {place.size}, desc {place.desc:#x}, driver {place.driver:#x}, "
            f"device {place.device:#x}"
        )
        self.size(queue, place.size)
        for register, address in (
            (modern.QUEUE_DESC, place.desc),
            (modern.QUEUE_DRIVER, place.driver),
            (modern.QUEUE_DEVICE, place.device),
        ):
            at = self._at(register)
            self._do(
                command.writel(at, address & 0xFFFF_FFFF), command.writel(at + 4, address >> 32)
            )

    def size(self, queue: int, size: int) -> None:
        self.say(f"queue {queue}: queue_size = {size}")
        self._select(queue)
        self._do(command.writew(self._at(modern.QUEUE_SIZE), size))

    def ready(self, queue: int, value: int) -> None:
        self.say(f"queue {queue}: queue_enable = {value}")
        self._select(queue)
        self._do(command.writew(self._at(modern.QUEUE_ENABLE), value))

    def reset_queue(self, queue: int) -> bool:
        self.say(f"queue {queue}: queue_reset = 1")
        self._select(queue)
        self._do(command.writew(self._at(modern.QUEUE_RESET), 1))
        self.flush()
        reset, enabled = self.transport.qtest.run_all(
            [
                command.readw(self._at(modern.QUEUE_RESET)),
                command.readw(self._at(modern.QUEUE_ENABLE)),
            ]
        )
        return not reset and not enabled

    def notify(self, queue: int) -> None:
        self.say(f"notify queue {queue}")
        region = self.transport.regions[modern.NOTIFY_CFG]
        at = region.address + queue * region.multiplier % region.length
        self._do(command.writew(at, queue & 0xFFFF))

    def config_write(self, offset: int, data: bytes) -> None:
        self._config(offset, data)

    def config_read(self, offset: int, size: int) -> None:
        self.say(f"read {size} bytes of configuration at {offset:#x}")
        region = self.transport.regions.get(modern.DEVICE_CFG)
        if region:
            self._do(MEMORY[size].read(region.address + offset % region.length))

    def _config(self, offset: int, data: bytes) -> None:
        self.say(f"configuration at {offset:#x} = {data.hex()}")
        region = self.transport.regions.get(modern.DEVICE_CFG)
        if region:
            value = int.from_bytes(data, "little")
            self._do(MEMORY[len(data)].write(region.address + offset % region.length, value))

    def stray(self, random: Random) -> None:
        if random.random() < 0.2:
            self._window(random)
            return
        register, width = random.randrange(COMMON_END), random.choice((1, 2, 4))
        if random.random() < 0.25:
            self.say(f"read {width} bytes of common configuration at {register:#x}")
            self._do(MEMORY[width].read(self._at(register)))
            return
        value = random.choice((0, 1, random.getrandbits(8 * width), (1 << 8 * width) - 1))
        self.say(f"common configuration at {register:#x} = {value:#x} ({width} bytes)")
        # The addresses and the size of a queue, in parts.
        self.odd = self.odd or register + width > modern.QUEUE_DESC
        self._do(MEMORY[width].write(self._at(register), value))

    def _window(self, random: Random) -> None:
        """Any access through the window in PCI configuration space."""
        function = self.transport.function
        for capability in function.capabilities():
            if capability.id != CAPABILITY_VENDOR:
                continue
            if function.config_read(capability.offset + 3, 1) != PCI_CFG:
                continue
            length = random.choice((0, 1, 2, 3, 4, 8, 0xFFFF_FFFF))
            offset = random.choice((random.getrandbits(32), random.randrange(0x4000)))
            bar = random.choice((0, 1, 2, 4, 5, 6, 255))
            self.say(f"PCI_CFG window: bar {bar}, offset {offset:#x}, length {length}")
            # It may reach the queue's addresses.
            self.odd = True
            function.config_write(capability.offset + CFG_BAR, 1, bar)
            function.config_write(capability.offset + CFG_OFFSET, 4, offset)
            function.config_write(capability.offset + CFG_LENGTH, 4, length)
            function.config_read(capability.offset + CFG_DATA, 4)
            function.config_write(capability.offset + CFG_DATA, 4, random.getrandbits(32))


@dataclass
class LegacyWire(Wire):
    """The I/O ports of a legacy PCI device."""

    transport: PciLegacy

    def _at(self, register: int) -> int:
        return self.transport.bars[0].address + register

    def _select(self, queue: int) -> None:
        self._do(command.outw(self._at(legacy.QUEUE_SELECT), queue & 0xFFFF))

    def features(self, word: int, value: int) -> None:
        self.say(f"driver features = {value:#x}")
        self._do(command.outl(self._at(legacy.DRIVER_FEATURES), value))

    def status(self, value: int) -> None:
        self.say(f"device status = {value:#x}")
        self._do(command.outb(self._at(legacy.DEVICE_STATUS), value))

    def place(self, queue: int, place: Place) -> None:
        self.say(f"queue {queue}: page frame {place.desc >> 12:#x}")
        self._select(queue)
        self._do(command.outl(self._at(legacy.QUEUE_ADDRESS), place.desc >> 12 & 0xFFFF_FFFF))

    def size(self, queue: int, size: int) -> None:
        self.say(f"queue {queue}: queue size = {size}")
        self._select(queue)
        self._do(command.outw(self._at(legacy.QUEUE_SIZE), size))

    def ready(self, queue: int, value: int) -> None:
        """A legacy queue is enabled by its address."""

    def notify(self, queue: int) -> None:
        self.say(f"notify queue {queue}")
        self._do(command.outw(self._at(legacy.QUEUE_NOTIFY), queue & 0xFFFF))

    def config_write(self, offset: int, data: bytes) -> None:
        self.say(f"configuration at {offset:#x} = {data.hex()}")
        value = int.from_bytes(data, "little")
        self._do(PORTS[len(data)].write(self._config(offset), value))

    def config_read(self, offset: int, size: int) -> None:
        self.say(f"read {size} bytes of configuration at {offset:#x}")
        self._do(PORTS[size].read(self._config(offset)))

    def _config(self, offset: int) -> int:
        at = legacy.CONFIG_WITHOUT_MSI_X
        return self._at(at + offset % (self.transport.bars[0].size - at))

    def stray(self, random: Random) -> None:
        register, width = random.randrange(legacy.CONFIG_WITH_MSI_X), random.choice((1, 2, 4))
        value = random.choice((0, 1, random.getrandbits(8 * width), (1 << 8 * width) - 1))
        self.say(f"port {register:#x} = {value:#x} ({width} bytes)")
        self.odd = self.odd or register < legacy.QUEUE_SIZE
        self._do(PORTS[width].write(self._at(register), value))
