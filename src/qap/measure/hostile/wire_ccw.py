"""The channel commands of virtio-ccw, for a hostile driver."""

import struct
from contextlib import suppress
from dataclasses import dataclass, field
from random import Random

from qap.hw.channel_program import NO_FLAGS, Ccw, ChannelError, Flag
from qap.hw.s390x_cpu import Instruction
from qap.measure.hostile.wire import Place, Wire
from qap.virtio import ccw
from qap.virtio.ccw import VirtioCcw
from qap.virtio.transport import LEGACY_PAGE

COMMANDS = (
    ccw.SET_VQ,
    ccw.VDEV_RESET,
    ccw.READ_FEAT,
    ccw.WRITE_FEAT,
    ccw.READ_CONF,
    ccw.WRITE_CONF,
    ccw.WRITE_STATUS,
    ccw.READ_VQ_CONF,
    ccw.SET_VIRTIO_REV,
    ccw.READ_STATUS,
)
# Indicators are given by address: only harmless ones are set.
DIAGNOSE = bytes.fromhex("83240500")
MOST = 1024
NOWHERE = Place(0, 0, 0, 0)


@dataclass
class CcwWire(Wire):
    """The commands of a virtio-ccw device; each is executed at once."""

    transport: VirtioCcw
    _places: dict[int, Place] = field(default_factory=dict)

    def _send(self, command: int, data: bytes, flags: Flag = NO_FLAGS) -> None:
        with suppress(ChannelError):
            self.transport.subchannel.start([Ccw(command, flags, data=data)])

    def forget(self) -> None:
        super().forget()
        self._places.clear()

    def features(self, word: int, value: int) -> None:
        self.say(f"WRITE_FEAT[{word}] = {value:#x}")
        self._send(ccw.WRITE_FEAT, struct.pack("<IB", value, word & 0xFF))

    def status(self, value: int) -> None:
        self.say(f"WRITE_STATUS {value:#x}")
        self._send(ccw.WRITE_STATUS, bytes([value]))

    def place(self, queue: int, place: Place) -> None:
        self.say(
            f"SET_VQ {queue}: size {place.size}, desc {place.desc:#x}, driver {place.driver:#x}, "
            f"device {place.device:#x}"
        )
        self._places[queue] = place
        if self.transport.legacy:
            info = struct.pack(">QIHH", place.desc, LEGACY_PAGE, queue, place.size)
        else:
            info = struct.pack(
                ">QIHHQQ", place.desc, 0, queue, place.size, place.driver, place.device
            )
        self._send(ccw.SET_VQ, info)

    def size(self, queue: int, size: int) -> None:
        self.place(queue, self._places.get(queue, NOWHERE)._replace(size=size))

    def ready(self, queue: int, value: int) -> None:
        """A queue is off where it has no address, and on with its address."""
        place = self._places.get(queue, NOWHERE)
        if not value:
            self.place(queue, NOWHERE._replace(size=place.size))
            self._places[queue] = place

    def notify(self, queue: int) -> None:
        self.say(f"notify queue {queue}")
        registers = {1: ccw.NOTIFY_SUBCODE, 2: self.transport.subchannel.id, 3: queue, 4: 0}
        self.transport.subchannel.cpu.run([Instruction(DIAGNOSE, registers)])

    def config_write(self, offset: int, data: bytes) -> None:
        self.say(f"WRITE_CONF {(bytes(offset) + data).hex()}")
        self._send(ccw.WRITE_CONF, bytes(offset % MOST) + data, Flag.SUPPRESS_LENGTH)

    def config_read(self, offset: int, size: int) -> None:
        self.say(f"READ_CONF of {offset % MOST + size} bytes")
        self._send(ccw.READ_CONF, bytes(offset % MOST + size), Flag.SUPPRESS_LENGTH)

    def stray(self, random: Random) -> None:
        command = random.choice((*COMMANDS, random.getrandbits(8)))
        data = random.randbytes(random.choice((0, 1, 2, 4, 5, 8, 16, 32, 64, 100)))
        if command in (ccw.SET_IND, ccw.SET_CONF_IND, 0x73):
            return
        flags = random.choice((NO_FLAGS, Flag.SUPPRESS_LENGTH, Flag.SKIP))
        self.say(f"command {command:#x} with {data.hex()}")
        self.odd = self.odd or command == ccw.SET_VQ
        self._send(command, data, flags)
