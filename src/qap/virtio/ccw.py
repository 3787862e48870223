"""Virtio over channel I/O (virtio 1.3, section 4.3)."""

import struct

from qap.hw import channel_program
from qap.hw.channel_program import ProgramFailed, SubchannelStatus
from qap.hw.s390x_cpu import Instruction
from qap.hw.subchannel import Subchannel
from qap.oracle.status import Status
from qap.virtio.transport import LEGACY_PAGE, QueueAddresses, Transport, VirtioError

# 4.3.1.
CU_TYPE = 0x3832

# 4.3.1.1.
SET_VQ = 0x13
VDEV_RESET = 0x33
SET_IND = 0x43
SET_CONF_IND = 0x53
READ_FEAT = 0x12
WRITE_FEAT = 0x11
READ_CONF = 0x22
WRITE_CONF = 0x21
WRITE_STATUS = 0x31
READ_VQ_CONF = 0x32
SET_VIRTIO_REV = 0x83
READ_STATUS = 0x72

# 4.3.2.1, 4.3.2.2, 4.3.2.4: the structures that commands transfer. Only features are
# little-endian.
_REVISION = struct.Struct(">HH")
_VQ_CONFIG = struct.Struct(">HH")
_VQ_INFO = struct.Struct(">QIHHQQ")
_VQ_INFO_LEGACY = struct.Struct(">QIHH")
_FEATURES = struct.Struct("<IB")
_ADDRESS = struct.Struct(">Q")
READ_STATUS_REVISION = 2

# 4.3.3.2: DIAGNOSE 0x500, its operands in registers.
_DIAGNOSE = bytes.fromhex("83240500")
NOTIFY_SUBCODE = 3

# LOAD AND AND with register 5, which is 0: reads a doubleword of storage and clears it
# (z/Architecture Principles of Operation, chapter 7).
_TAKE = bytes.fromhex("eb45200000e4")

# What a channel program can transfer of a configuration; devices have less.
CONFIG_MOST = 1024

# By default every subchannel has its indicators here, below what GuestMemory hands out.
INDICATORS = 0x1_0000
INDICATORS_SIZE = 16


class RevisionRefused(VirtioError):
    """The device rejected the revision (4.3.2.1)."""


class VirtioCcw(Transport):
    """A virtio device behind a subchannel.

    The constructor disables and enables the subchannel, which resets the device's revision
    (4.3.2.1) and nothing else. Methods that reach the device raise ChannelError if it does
    not accept a command.

    Args:
        subchannel: from `ChannelSubsystem`.
        revision: of virtio-ccw; 0 is a legacy driver's.
        sets_revision_0: send SET_VIRTIO_REV also for revision 0, as a transitional driver
            does. A legacy driver does not know it; the device then assumes revision 0 at
            the first other command.
        indicators: address of 16 bytes of guest memory for the indicators of queues and of the
            configuration; by default at `INDICATORS`, by the subchannel's number.
    Raises:
        VirtioError: it is no virtio device.
        RevisionRefused: it does not support that revision.

    Attributes:
        revision: as given.
    """

    def __init__(
        self,
        subchannel: Subchannel,
        revision: int,
        *,
        sets_revision_0: bool = False,
        indicators: int | None = None,
    ) -> None:
        self.subchannel = subchannel
        self.revision = revision
        self.qtest = subchannel.cpu.qtest
        self.legacy = revision == 0
        if indicators is None:
            indicators = INDICATORS + INDICATORS_SIZE * subchannel.number
        self._indicators = indicators
        self._status = Status(0)
        self._driver_features = 0
        self._enabled: set[int] = set()
        self._cookies: dict[int, int] = {}
        subchannel.enable()
        sensed = subchannel.sense_id()
        if sensed.cu_type != CU_TYPE:
            raise VirtioError(f"{self} has control unit type {sensed.cu_type:#06x}, not virtio's")
        self._device_type = sensed.cu_model
        if revision or sets_revision_0:
            self._set_revision()

    def __str__(self) -> str:
        return f"the CCW device {self.subchannel}"

    def _set_revision(self) -> None:
        try:
            self.execute(SET_VIRTIO_REV, _REVISION.pack(self.revision, 0))
        except ProgramFailed as failed:
            if not failed.irb.rejected:
                raise
            raise RevisionRefused(f"{self} does not speak revision {self.revision}") from None

    def execute(
        self,
        command: int,
        data: bytes = b"",
        *,
        count: int | None = None,
        flags: channel_program.Flag = channel_program.NO_FLAGS,
    ) -> bytes:
        """Execute one command, raw; returns its data afterwards.

        Args:
            count: bytes to transfer; those of `data` if None.
        Raises:
            ProgramFailed: the device did not take it; `irb` says how it ended.
        """
        return self.subchannel.start([channel_program.Ccw(command, flags, count, data)]).data[0]

    @property
    def device_type(self) -> int:
        return self._device_type

    @property
    def device_features(self) -> int:
        words = range(1 if self.legacy else 2)
        program = [channel_program.Ccw(READ_FEAT, data=_FEATURES.pack(0, index)) for index in words]
        read = [_FEATURES.unpack(data)[0] for data in self.subchannel.start(program).data]
        return sum(word << 32 * index for index, word in enumerate(read))

    @property
    def driver_features(self) -> int:
        """What was written through this object since the last reset; no command reads it."""
        return self._driver_features

    def set_driver_features(self, features: int) -> None:
        words = (
            [self.legacy_word(features)]
            if self.legacy
            else [features & 0xFFFF_FFFF, features >> 32]
        )
        self.subchannel.start(
            [
                channel_program.Ccw(WRITE_FEAT, data=_FEATURES.pack(word, index))
                for index, word in enumerate(words)
            ]
        )
        self._driver_features = features

    def device_feature_word(self, index: int) -> int:
        word: int = _FEATURES.unpack(self.execute(READ_FEAT, _FEATURES.pack(0, index)))[0]
        return word

    def set_driver_feature_word(self, index: int, word: int) -> None:
        self.execute(WRITE_FEAT, _FEATURES.pack(word, index))
        if index < 2:
            kept = self._driver_features & ~(0xFFFF_FFFF << 32 * index)
            self._driver_features = kept | word << 32 * index

    @property
    def status(self) -> Status:
        """The status field: from revision 2 on, as read from the device.

        Before, the last status that was written and not rejected by the device (4.3.2.3).
        """
        if self.revision < READ_STATUS_REVISION:
            return self._status
        return Status(self.execute(READ_STATUS, bytes(1))[0])

    def set_status(self, status: Status) -> None:
        """Write the status field; the device may reject it, which `status` shows (4.3.2.3)."""
        try:
            self.execute(WRITE_STATUS, bytes([status]))
        except ProgramFailed as failed:
            if not failed.irb.rejected:
                raise
        else:
            self._status = status
            if not status:
                self._forget()

    def reset(self) -> None:
        """Reset the device (4.3.3.3) and set up indicators, which the reset clears."""
        queues, config = self._indicators, self._indicators + _ADDRESS.size
        self.subchannel.start(
            [
                channel_program.Ccw(VDEV_RESET),
                channel_program.Ccw(SET_IND, data=_ADDRESS.pack(queues)),
                channel_program.Ccw(SET_CONF_IND, data=_ADDRESS.pack(config)),
            ]
        )
        self._forget()
        self.isr_status()

    def _forget(self) -> None:
        self._status = Status(0)
        self._driver_features = 0
        self._enabled.clear()

    @property
    def config_size(self) -> int:
        """Bytes of configuration space that the device has, of CONFIG_MOST at most."""
        # QEMU's residual count does not say how many; what is not written over does.
        over = [bytes([fill]) * CONFIG_MOST for fill in (0x00, 0xFF)]
        suppress = channel_program.Flag.SUPPRESS_LENGTH
        low, high = (self.execute(READ_CONF, data, flags=suppress) for data in over)
        return max((at + 1 for at in range(CONFIG_MOST) if low[at] == high[at]), default=0)

    def config_read(self, offset: int, size: int) -> bytes:
        """A range of configuration space, read at once with everything before it.

        Raises:
            VirtioError: the range ends behind the configuration.
        """
        self._check_config(offset + size)
        return self._config(READ_CONF, bytes(offset + size))[offset:] if size else b""

    def config_write(self, offset: int, data: bytes) -> None:
        """Write a range of configuration space; everything before it is written back unchanged.

        Raises:
            VirtioError: the range ends behind the configuration.
        """
        self._check_config(offset + len(data))
        before = self.config_read(0, offset) if offset else b""
        self._config(WRITE_CONF, before + data)

    def _check_config(self, end: int) -> None:
        """Raise VirtioError where a channel program could not hold the configuration."""
        if end > CONFIG_MOST:
            raise VirtioError(f"{self} has no {end} bytes of configuration, but {self.config_size}")

    def _config(self, command: int, data: bytes) -> bytes:
        try:
            return self.execute(command, data)
        except ProgramFailed as failed:
            if SubchannelStatus.PROGRAM_CHECK not in failed.irb.subchannel:
                raise
            said = f"{self} has no {len(data)} bytes of configuration, but {self.config_size}"
            raise VirtioError(said) from None

    def queue_max(self, index: int) -> int:
        """The most entries that a queue can have; 0 if there is no such queue.

        After a queue was set up with fewer entries, QEMU returns that number until a reset.
        """
        try:
            answer = self.execute(READ_VQ_CONF, _VQ_CONFIG.pack(index, 0))
        except ProgramFailed as failed:
            if SubchannelStatus.PROGRAM_CHECK not in failed.irb.subchannel:
                raise
            return 0
        return int(_VQ_CONFIG.unpack(answer)[1])

    def queue_enabled(self, index: int) -> bool:
        """Whether it was enabled through this object since the last reset; no command reads it."""
        return index in self._enabled

    def enable_queue(self, index: int, queue: QueueAddresses) -> None:
        """Tell the device the addresses of a queue and enable it.

        Raises:
            VirtioError: it lacks the legacy layout that revision 0 requires.
            ChannelError: the device does not accept it, such as for its size.
        """
        if self.legacy:
            queue.page_frame()
            info = _VQ_INFO_LEGACY.pack(queue.desc, LEGACY_PAGE, index, queue.size)
        else:
            info = _VQ_INFO.pack(queue.desc, 0, index, queue.size, queue.driver, queue.device)
        self.execute(SET_VQ, info)
        self._enabled.add(index)

    def notify(self, index: int) -> None:
        """Send an available buffer notification with DIAGNOSE (4.3.3.2).

        Raises:
            VirtioError: the device has no such queue.
        """
        registers = {
            1: NOTIFY_SUBCODE,
            2: self.subchannel.id,
            3: index,
            4: self._cookies.get(index, 0),
        }
        (notified,), _ = self.subchannel.cpu.run([Instruction(_DIAGNOSE, registers)])
        cookie = notified.registers[2]
        if cookie >> 63:
            raise VirtioError(f"{self} can't be notified of queue {index}: {cookie - (1 << 64)}")
        self._cookies[index] = cookie

    def isr_status(self) -> int:
        """Read and clear the indicators (4.3.3.1): bit 0 for queues, bit 1 for configuration."""
        places = (self._indicators, self._indicators + _ADDRESS.size)
        (queues, config), _ = self.subchannel.cpu.run(
            [Instruction(_TAKE, {2: address}) for address in places]
        )
        return bool(queues.registers[4]) | bool(config.registers[4]) << 1
